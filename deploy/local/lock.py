"""`make lock`: the requirement locks and the jars' checksums, made anew from what is pinned by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from deploy.local import checksums, maven
from deploy.local.paths import JAR_SUMS, JARS, REQUIREMENTS, ROOT, SETUP_STATE, VENV
from deploy.local.progress import SetupError, run_step

# Hashes, and no name of an index: the lock is right wherever the packages are served from.
COMMON: Final = ("--generate-hashes", "--no-emit-index-url", "--no-header", "--system-certs")
# The worker's platforms are many; the Flink job's environment is resolved for the oldest Python that it runs on.
LOCKS: Final[dict[str, Sequence[str]]] = {
    "bootstrap.txt": ("--universal", "requirements/bootstrap.in"),
    "build.txt": ("--universal", "requirements/build.in"),
    "worker.txt": ("--universal", "pyproject.toml"),
    "dev.txt": ("--universal", "--extra", "local", "--extra", "dev", "pyproject.toml"),
    "flink.txt": (
        "--python-version",
        "3.11",
        "--overrides",
        "requirements/flink-overrides.txt",
        "requirements/flink.in",
    ),
}


def main() -> int:
    """Write every lock; versions that may stay stay, unless `--upgrade` is given."""
    uv = str(VENV / "bin" / "uv")
    # Without these the locks would depend on the packages that happen to lie on this machine.
    env = {name: value for name, value in os.environ.items() if name not in {"UV_FIND_LINKS", "PIP_FIND_LINKS"}}
    try:
        for name, arguments in LOCKS.items():
            command = [uv, "pip", "compile", *COMMON, *sys.argv[1:], *arguments, "-o", f"requirements/{name}"]
            run_step(f"requirements/{name}", command, log=SETUP_STATE / "lock.log", env=env, cwd=ROOT)
        maven.fetch()
    except SetupError as exc:
        print(f"lock: {exc}", file=sys.stderr)
        return 1
    files = checksums.present(JARS, maven.FETCHED)
    JAR_SUMS.write_text(checksums.render(files), encoding="utf-8")
    print(f"{len(files)} checksums in {JAR_SUMS.relative_to(ROOT)}; locks in {REQUIREMENTS.relative_to(ROOT)}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

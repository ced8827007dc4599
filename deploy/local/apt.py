"""What must come from the system's packages: a Python that can make environments, and Maven.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.paths import SETUP_STATE
from deploy.local.progress import SetupError, run_step

APT: Final = ("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that may make an environment."""

    path: str
    version: tuple[int, int]
    makes_environments: bool


def probe(path: str) -> Interpreter | None:
    """What this Python is, or None where it does not run."""
    code = (
        "import sys, importlib.util as u;"
        "print(*sys.version_info[:2], int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))))"
    )
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=True)
        major, minor, usable = map(int, done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, (major, minor), bool(usable))


def candidates(first: str, which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Pythons to look at: the one that runs the set-up, then those that PATH has by their versions."""
    named = (which(f"python3.{minor}") for minor in (13, 12, 11))
    return list(dict.fromkeys([first, *(path for path in named if path)]))


def choose(interpreters: Iterable[Interpreter], allowed: tuple[int, ...], purpose: str) -> Interpreter:
    """The Python for an environment: of an allowed version, and one that makes environments where there is one.

    `allowed` are minor versions of Python 3. Raises SetupError when no Python has one of them.
    """
    fitting = [one for one in interpreters if one.version[0] == 3 and one.version[1] in allowed]
    if not fitting:
        versions = " or ".join(f"3.{minor}" for minor in allowed)
        raise SetupError(
            f"{purpose} needs Python {versions}, and PATH has none; install one, for example: apt-get install python3.11-venv"
        )
    return next((one for one in fitting if one.makes_environments), fitting[0])


def install_missing(packages: list[str], because: list[str]) -> None:
    """Install system packages. Raises SetupError with the command that mends it where apt cannot be used."""
    if not packages:
        return
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    missing = f"missing: {', '.join(because)}"
    if shutil.which("apt-get") is None:
        raise SetupError(f"{missing}; this system has no apt-get: install what Debian calls {' '.join(packages)}")
    prefix: tuple[str, ...] = ()
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise SetupError(f"{missing}; run as root: {by_hand}")
        if subprocess.run(["sudo", "-v"], check=False).returncode:
            raise SetupError(f"{missing}; sudo was refused; run as root: {by_hand}")
        prefix = ("sudo", "--preserve-env=DEBIAN_FRONTEND")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    counter = _Counter()
    log = SETUP_STATE / "apt.log"
    try:
        if not _known(packages):
            run_step("apt: package lists", [*prefix, *APT, "update"], log=log, env=env)
        command = [*prefix, *APT, "install", "--no-install-recommends", *packages]
        run_step(f"apt: {' '.join(packages)}", command, log=log, env=env, measure=counter.measure, on_line=counter.line)
    except SetupError as exc:
        raise SetupError(f"{missing}; mend it as root by: apt-get update && {by_hand}\n{exc}") from exc


def _known(packages: list[str]) -> bool:
    """Whether apt has the lists, so that an update, which takes seconds, is not needed."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        return False
    done = subprocess.run(["apt-cache", "show", *packages], capture_output=True, check=False)
    return done.returncode == 0


class _Counter:
    """Counts what apt says it does."""

    def __init__(self) -> None:
        self.fetched = self.unpacked = self.configured = 0

    def line(self, text: str) -> None:
        self.fetched += text.startswith("Get:")
        self.unpacked += text.startswith("Unpacking ")
        self.configured += text.startswith("Setting up ")

    def measure(self) -> str:
        return f"{self.fetched} fetched, {self.unpacked} unpacked, {self.configured} set up" if self.fetched else ""

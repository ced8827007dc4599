"""The two Python environments, from locked requirements with hashes.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.apt import Interpreter, candidates, choose, probe
from deploy.local.paths import REQUIREMENTS, ROOT, SETUP_STATE, VENV, VENV_FLINK
from deploy.local.progress import SetupError, run_step
from deploy.local.stamps import Stamp, fingerprint

BOOTSTRAP: Final = REQUIREMENTS / "bootstrap.txt"
BUILD: Final = REQUIREMENTS / "build.txt"


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment: where, from what, and on which minor versions of Python 3."""

    title: str
    path: Path
    requirements: Path
    minors: tuple[int, ...]
    editable: bool
    """Whether our own packages are installed too, so that they are found from any directory."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    def stamp(self) -> Stamp:
        """Holds when the environment is as its requirements say."""
        files = [self.requirements, BOOTSTRAP, BUILD, *([ROOT / "pyproject.toml"] if self.editable else [])]
        # The path: an environment does not survive the move of its checkout.
        return Stamp(SETUP_STATE / f"{self.path.name}.json", fingerprint(files, str(self.path)))

    def ready(self) -> bool:
        """Whether nothing needs doing."""
        return self.python.exists() and self.stamp().holds()


WORKER: Final = Environment("worker environment", VENV, REQUIREMENTS / "dev.txt", (11, 12, 13), editable=True)
FLINK: Final = Environment("Flink environment", VENV_FLINK, REQUIREMENTS / "flink.txt", (11, 12), editable=False)


def interpreters(first: str) -> dict[Path, Interpreter]:
    """The Python for each environment that needs work. Raises SetupError when there is none."""
    wanted = [environment for environment in (WORKER, FLINK) if not environment.ready()]
    if not wanted:
        return {}
    found = [one for one in map(probe, candidates(first)) if one is not None]
    return {each.path: choose(found, each.minors, f"the {each.title} ({each.path.name})") for each in wanted}


def build(environment: Environment, interpreter: Interpreter) -> None:
    """Make the environment, or bring it to what its requirements say."""
    stamp = environment.stamp()
    stamp.clear()
    log = SETUP_STATE / f"{environment.path.name}.log"
    if not _usable(environment, interpreter):
        shutil.rmtree(environment.path, ignore_errors=True)
        command = [interpreter.path, "-m", "venv", str(environment.path)]
        run_step(f"{environment.title}: made by Python 3.{interpreter.version[1]}", command, log=log)
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        # pip knows hashes but takes minutes for the rest; one pinned wheel of uv takes over from it.
        pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "install", "--require-hashes"]
        run_step("uv, the installer", [*pip, "-r", str(BOOTSTRAP)], log=log)
    downloads = Downloads(environment.requirements)
    python = ["--python", str(environment.python)]
    certificates = ["--system-certs"]
    sync = [str(uv), "pip", "sync", *certificates, "--require-hashes", "--build-constraints", str(BUILD), *python]
    run_step(
        environment.title,
        [*sync, str(environment.requirements)],
        log=log,
        measure=downloads.measure,
        on_line=downloads.line,
    )
    if environment.editable:
        install = [str(uv), "pip", "install", "--no-deps", "--no-build-isolation", *certificates, *python]
        # compat: the checkout itself goes on the path, so that a package added later is found too.
        install += ["--config-setting", "editable_mode=compat"]
        run_step("this project, editable", [*install, "--editable", str(ROOT)], log=log, cwd=ROOT)
    stamp.write()


def _usable(environment: Environment, interpreter: Interpreter) -> bool:
    """Whether the environment that is there can be kept: it runs, and on a version that we support."""
    if not environment.python.exists():
        return False
    current = probe(str(environment.python))
    return (
        current is not None
        and current.version[1] in environment.minors
        # Moved or copied environments keep scripts that point to where they were made.
        and _made_here(environment)
        and interpreter.version[0] == current.version[0]
    )


def _made_here(environment: Environment) -> bool:
    code = "import sys; print(sys.prefix)"
    done = subprocess.run([str(environment.python), "-c", code], capture_output=True, text=True, check=False)
    script = next((path for path in (environment.path / "bin").glob("pip3*") if path.is_file()), None)
    pointed = script is None or str(environment.path) in script.read_text(encoding="utf-8", errors="replace")[:300]
    return Path(done.stdout.strip() or "/") == environment.path and pointed


class Downloads:
    """Reads uv's messages: how many packages there are, and how much of the large ones has come."""

    _SIZE = re.compile(r"^Downloading (\S+) \(([\d.]+)([KMG]?)iB\)")
    _UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

    def __init__(self, requirements: Path) -> None:
        self.packages = sum("==" in line for line in requirements.read_text(encoding="utf-8").splitlines())
        self.sizes: dict[str, int] = {}
        self.come: set[str] = set()
        self.phase = ""

    def line(self, text: str) -> None:
        """Take one line of uv's output."""
        if match := self._SIZE.match(text):
            self.sizes[match[1]] = int(float(match[2]) * self._UNITS[match[3]])
        elif text.startswith(" Downloaded "):
            self.come.add(text.split()[1])
        elif match := re.match(r"^(Resolved|Prepared|Installed) (\d+) packages?", text):
            self.phase = match[1].lower()
            if self.phase == "resolved":
                self.packages = int(match[2])

    def measure(self) -> str:
        """How much is done."""
        total, done = sum(self.sizes.values()), sum(self.sizes[name] for name in self.come if name in self.sizes)
        large = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB of large files, " if total else ""
        return f"{large}{self.packages} packages{' ' + self.phase if self.phase else ''}"


def check() -> None:
    """Raise SetupError when an environment lacks its interpreter after all."""
    for environment in (WORKER, FLINK):
        if not environment.python.exists():
            raise SetupError(f"{environment.python} is missing; run: make setup")

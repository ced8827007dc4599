"""Where things of this checkout are. Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout; every process of the stack has it as its working directory."""

VENV: Final = ROOT / ".venv"
VENV_FLINK: Final = ROOT / ".venv-flink"
RUN: Final = ROOT / ".run"
JARS: Final = RUN / "jars"
SETUP_STATE: Final = RUN / "setup"
REQUIREMENTS: Final = ROOT / "requirements"
JAR_SUMS: Final = ROOT / "deploy" / "local" / "jars" / "SHA256SUMS"
JAR_POM: Final = ROOT / "deploy" / "local" / "jars" / "pom.xml"

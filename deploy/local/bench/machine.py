"""What the figures were measured on, and where they are printed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from rich.console import Console

PLAIN_WIDTH: Final = 170


def machine(cores: int) -> dict[str, object]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cores": cores, "cpu": model, "python": platform.python_version()}


def wide(console: Console | None) -> Console:
    """A console to print a table on, wide enough for it where there is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        # A file or a pipe has no width of its own.
        console.width = PLAIN_WIDTH
    return console

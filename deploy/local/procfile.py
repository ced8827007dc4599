"""The Procfile: one process a line, in start order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streams.domain.errors import ConfigurationError

_LINE: Final = re.compile(r"^([a-z][a-z0-9_-]*):\s*(\S.*)$")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the stack: its name and its shell command."""

    name: str
    command: str


def parse(text: str) -> list[Process]:
    """The processes, in start order. Raises ConfigurationError that names the line which is none."""
    processes: list[Process] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ConfigurationError(f"Procfile, line {number}: it takes NAME: COMMAND, and not {line!r}")
        if any(match[1] == process.name for process in processes):
            raise ConfigurationError(f"Procfile, line {number}: {match[1]!r} is there twice")
        processes.append(Process(match[1], match[2]))
    if not processes:
        raise ConfigurationError("Procfile: no process")
    return processes

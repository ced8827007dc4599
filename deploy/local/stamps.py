"""Stamps: a step whose inputs and outputs have not changed since it last succeeded is skipped.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def fingerprint(files: Iterable[Path], *words: str) -> str:
    """What a step depends on, as one string: the bytes of files, and anything else that can be said in words."""
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def listing(directories: Iterable[Path]) -> list[list[str | int]]:
    """Name, size and time of change of every file below: enough to see that one was lost or touched."""
    rows: list[list[str | int]] = []
    for directory in directories:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                stat = file.stat()
                rows.append([file.relative_to(directory.parent).as_posix(), stat.st_size, stat.st_mtime_ns])
    return rows


class Stamp:
    """One step's stamp, in a file that is written when the step has succeeded."""

    def __init__(self, path: Path, inputs: str, outputs: Iterable[Path] = ()) -> None:
        self._path = path
        self._inputs = inputs
        self._outputs = tuple(outputs)

    def holds(self) -> bool:
        """Whether the step succeeded with these inputs, and its outputs are as it left them."""
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(saved == {"inputs": self._inputs, "outputs": listing(self._outputs)})

    def write(self) -> None:
        """Record success."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"inputs": self._inputs, "outputs": listing(self._outputs)})
        self._path.write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Forget an earlier success before the step is tried again."""
        self._path.unlink(missing_ok=True)

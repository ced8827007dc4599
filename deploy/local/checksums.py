"""Every jar against the committed list of checksums: a wrong, a missing and an extra file are errors.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.local.progress import SetupError


def read_sums(path: Path) -> dict[str, str]:
    """Checksum by relative path, from the format of `sha256sum`."""
    sums: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            digest, _, name = line.partition("  ")
            sums[name] = digest
    return sums


def sha256(path: Path) -> str:
    """The file's checksum in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def present(base: Path, directories: Iterable[str]) -> dict[str, Path]:
    """Every file in the directories below `base`, by relative path."""
    return {
        file.relative_to(base).as_posix(): file
        for directory in directories
        for file in sorted((base / directory).glob("*"))
        if file.is_file()
    }


def verify(files: Mapping[str, Path], sums: Mapping[str, str]) -> None:
    """Raise SetupError that names every file that is not as the list says."""
    wrong = [
        *(f"{name}: missing" for name in sorted(sums.keys() - files.keys())),
        *(f"{name}: not in the list" for name in sorted(files.keys() - sums.keys())),
        *(
            f"{name}: sha256 is {got}, the list says {sums[name]}"
            for name in sorted(files.keys() & sums.keys())
            if (got := sha256(files[name])) != sums[name]
        ),
    ]
    if wrong:
        raise SetupError("jars differ from deploy/local/jars/SHA256SUMS:\n  " + "\n  ".join(wrong))


def render(files: Mapping[str, Path]) -> str:
    """The list for these files."""
    return "".join(f"{sha256(path)}  {name}\n" for name, path in sorted(files.items()))

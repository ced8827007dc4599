"""How much memory each process of the stack takes, with everything below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process and its descendants."""

    name: str
    rss: int
    """Resident: pages that several processes share are counted in each."""
    pss: int
    """Proportional: a page that two share counts half in each, so sums are right."""


def measure(roots: Iterable[tuple[str, int]]) -> list[Memory]:
    """Memory by name, of processes given as name and process id; one that has ended counts nothing."""
    return [_tree(name, pid) for name, pid in roots]


def _tree(name: str, pid: int) -> Memory:
    rss = pss = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        processes = []
    for process in processes:
        try:
            info = process.memory_full_info()
        except psutil.Error:
            continue
        rss += info.rss
        pss += info.pss
    return Memory(name, rss, pss)

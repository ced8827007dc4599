"""Python's collector of cycles, set for a process that holds many records for a moment.

Each record is some objects that the collector looks at, and thousands are in hand until their transaction is
committed. With Python's own settings it starts after every 700 of them and walks all that is in hand again and
again: a third of the CPU of a state agent. Nothing of a record is part of a cycle; it goes when nobody refers to it.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""After so many new objects the young ones are looked at: some fetches, and a few megabytes of cycles at most."""


def spare_records() -> None:
    """Let the collector start seldom, and leave out what is there already: modules, classes, settings.

    For the whole process, so to be called once all of it is imported. What somebody has set higher stays.
    """
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
        gc.collect()
        gc.freeze()

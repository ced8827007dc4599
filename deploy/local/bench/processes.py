"""What is measured is a process of its own: on which core it runs, and what it is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streams.settings import ENV_PREFIX

BENCH_PREFIX: Final = "BENCH_"
"""Of what subjects are told beside the platform's settings."""


class SubjectError(Exception):
    """A subject failed or got stuck; the message has the end of its log."""


def cores() -> tuple[int | None, int | None]:
    """The core of the subjects, and that of the broker and of us; None where there are no two."""
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (found[0], found[1]) if len(found) > 1 else (None, None)


def environment(settings: Mapping[str, object], told: Mapping[str, object]) -> dict[str, str]:
    """A subject's environment: these settings, what it is told, and no setting of the caller's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, BENCH_PREFIX))}
    ours = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
    return inherited | ours | {f"{BENCH_PREFIX}{name.upper()}": str(value) for name, value in told.items()}

"""What is done to the processes, in which order: it follows from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.worker_faults import Fault

SLOTS: Final = ("memory", "rocksdb", "memory")
"""The workers, and where each holds its tables. The first two always run; the third joins and leaves."""
GUEST: Final = 2
PARTITIONS: Final = 6
"""Of each topic: Faust shares out four among three workers as two, two and none at times, and nothing would move."""


class Kind(StrEnum):
    """What happens to a worker, or to the broker."""

    KILL = "kill -9"
    """And started again, by whoever watches over it."""
    STOP = "stop"
    """SIGTERM, and started again."""
    FREEZE = "freeze"
    """SIGSTOP for longer than the group's session timeout, then SIGCONT: a zombie."""
    JOIN = "join"
    LEAVE = "leave"
    BROKER = "broker kill -9"
    """And started again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault."""

    kind: Kind
    slot: int
    """Of the worker."""
    delay_s: float
    """How long after the group was seen to move."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    """What the workers' clients are struck by."""
    every: int
    """Transactions between two of them, about."""
    before: float
    """The share of events that are there before the first fault."""
    rate: float
    """Events a second while faults run."""


def whole(seed: int) -> Plan:
    """Everything that can happen, several times."""
    draw = random.Random(f"{seed}/plan")
    # The guest is there for a part of it, and ends in each of the ways that there are.
    first = [Kind.KILL, Kind.FREEZE, Kind.STOP]
    second = [Kind.KILL, Kind.BROKER, Kind.FREEZE, Kind.KILL]
    draw.shuffle(first)
    draw.shuffle(second)
    steps = [Step(kind, draw.randrange(GUEST), draw.uniform(0, 2)) for kind in (*first, *second)]
    at = draw.randrange(1, 3)
    steps[at:at] = [Step(Kind.JOIN, GUEST, draw.uniform(0, 2))]
    steps[at + 2 : at + 2] = [Step(Kind.LEAVE, GUEST, draw.uniform(0, 2))]
    at = draw.randrange(at + 3, len(steps))
    steps[at:at] = [Step(Kind.JOIN, GUEST, draw.uniform(0, 2)), Step(Kind.KILL, GUEST, draw.uniform(0, 2))]
    return Plan(tuple(steps), tuple(fault for fault in Fault if fault is not Fault.UNAVAILABLE), 25, 0.3, 2_500)


def short(seed: int) -> Plan:
    """One of each that takes no minute."""
    draw = random.Random(f"{seed}/plan")
    guest = [Step(Kind.JOIN, GUEST, draw.uniform(0, 1)), Step(Kind.LEAVE, GUEST, draw.uniform(0, 1))]
    others = [Step(kind, draw.randrange(GUEST), draw.uniform(0, 1)) for kind in (Kind.KILL, Kind.FREEZE)]
    draw.shuffle(others)
    steps = (guest[0], others[0], guest[1], others[1])
    faults = tuple(fault for fault in Fault if fault not in (Fault.UNAVAILABLE, Fault.EXPIRED))
    return Plan(steps, faults, 10, 0.4, 2_500)

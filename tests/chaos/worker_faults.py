"""What strikes a chaos worker, and by which environment variables it is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

JOURNAL: Final = "CHAOS_JOURNAL"
"""The file in which it notes what happens."""
SEED: Final = "CHAOS_SEED"
EVERY: Final = "CHAOS_EVERY"
"""Transactions between two faults, about."""
FAULTS: Final = "CHAOS_FAULTS"
"""Names of faults, separated by commas."""


class Fault(StrEnum):
    """What may happen to a transaction."""

    UNAVAILABLE = "unavailable"
    """Before it: the agent's work fails with an error that may pass."""
    SEND = "send"
    """In it: a record is written, and the client hears a timeout."""
    OFFSETS = "offsets"
    """In it: everything is written but the offsets, which time out."""
    LOST = "lost"
    """At its end: the commit times out, and never came to the broker."""
    ANSWER = "answer"
    """After it: the transaction is committed, and the client hears a timeout."""
    RIVAL = "rival"
    """At its end: another producer was started with its id, so it is fenced."""
    SLOW = "slow"
    """At its end: the commit comes late, in time for a kill or a rebalance to be faster."""
    EXPIRED = "expired"
    """At its end: the commit comes so late that the broker has aborted the transaction."""

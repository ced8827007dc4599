"""What takes emissions, and what it says of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from streams.domain.errors import PlatformError
from streams.generators.emission import Emission


class Verdict(StrEnum):
    """What became of an emission."""

    ACCEPTED = "accepted"
    """Taken as a valid event."""
    REJECTED = "rejected"
    """Refused as an invalid one."""
    FAILED = "failed"
    """Given up, or refused for another reason than its contents."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The fate of one emission."""

    verdict: Verdict
    retries: int = 0
    """How many attempts followed the first."""
    uncertain: bool = False
    """Whether the fate of some attempt is unknown: the event may be stored once more than counted."""
    repeated: bool = False
    """Whether it was accepted as one that is stored already, and not stored again."""
    surprise: str | None = None
    """Where the answer is not what the intent asks for: both, in words."""
    fatal: PlatformError | None = None
    """Why the run cannot go on, where it cannot."""


class AbandonedError(Exception):
    """The run is being stopped, so there is no further attempt. No error of the platform's: no retry catches it."""


class Sink(Protocol):
    """Somewhere to send to. Its owner closes it."""

    async def send(self, emission: Emission) -> Outcome:
        """Send one, trying again as the retry policy allows. Raises nothing but bugs."""
        ...

    def abandon(self) -> None:
        """Start no further attempt of anything: the run is being stopped."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...

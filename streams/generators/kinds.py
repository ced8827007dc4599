"""The kinds of events that can be generated."""

from __future__ import annotations

from typing import Protocol

from streams.generators.clickstream import Clickstream
from streams.generators.draws import Draws
from streams.generators.emission import Draft
from streams.generators.iot import Iot
from streams.generators.transactions import Transactions
from streams.generators.zipf import ZipfSampler


class Kind(Protocol):
    """A source of one kind of events. What it makes up depends on what it made up before."""

    text_timestamps: bool
    """Whether its events carry RFC 3339 text; else epoch milliseconds."""

    def draft(self, event_time_ms: int) -> Draft:
        """The next event, at an event time."""
        ...


def kind_of(name: str, draws: Draws, keys: ZipfSampler) -> Kind:
    """A fresh source of a kind in `streams.generators.options.KINDS`. Raises ValueError for any other name."""
    if name == "iot":
        return Iot(draws, keys)
    if name == "clickstream":
        return Clickstream(draws, keys)
    if name == "transactions":
        return Transactions(draws, keys)
    raise ValueError(f"no such kind: {name!r}")

"""Topics that come while workers run: an agent's subscription grows with them.

Faust has patterns for this, but its consumer does not subscribe to them; and it waits 45 s after a change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import faust
from faust.types import TopicT

from streams.kafka.batching import internals

log = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0


class GrowingSubscription:
    """The topics of one agent, which are looked for again and again; they never become fewer."""

    def __init__(
        self,
        app: faust.App,
        topic: TopicT,
        look: Callable[[], Awaitable[Iterable[str]]],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._app = app
        # Shared, as a list, by the agent's channel and the clones that are made of it when the agent starts.
        self._subscribed = list(topic.topics)
        topic.topics = self._subscribed
        self._look = look
        self._interval_s = interval_s

    async def begin(self) -> None:
        """Before the agent starts: take what there is, so that the first subscription is whole. Raises as `look`."""
        self.grow(await self._look())

    async def follow(self, should_go_on: Callable[[], bool]) -> None:
        """Look and subscribe, until told to stop. What `look` raises is logged, and looked again."""
        while should_go_on():
            try:
                self.grow(await self._look())
            except Exception as exc:  # noqa: BLE001  # whatever it is, it must not end the looking
                log.warning("cannot look for new topics, trying again: %s", exc)
            await asyncio.sleep(self._interval_s)

    def grow(self, names: Iterable[str]) -> None:
        """Subscribe to what is new among these topics."""
        subscribed = self._subscribed
        new = sorted(set(names) - set(subscribed))
        if new:
            log.info("%s: subscribing to %s", self._app.conf.id, ", ".join(new))
            subscribed.extend(new)
        if not self._app.rebalancing:
            internals.resubscribe(self._app.topics, subscribed)

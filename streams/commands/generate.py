"""`faust -A streams generate`: synthetic events, with totals to compare the platform with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

from faust.cli import AppCommand, option

from streams.commands.running import plain_errors
from streams.faust_app import app
from streams.generators.options import KINDS, Via, parse_options
from streams.generators.rates import Pattern
from streams.generators.run import run_generator
from streams.kafka.producer import EventProducer, OutgoingRecord
from web.security.auth import load_or_create_secret, make_token

_TOKEN_TTL_S: Final = 7 * 86_400
_SEND_DEADLINE_S: Final = 10.0


def _number(name: str, default: float, help_: str) -> Any:
    return option(name, type=float, default=default, show_default=True, help=help_)


@app.command(
    option("--kind", "kinds", multiple=True, help=f"{', '.join(KINDS)}; repeatable, all when absent"),
    _number("--rate", 100.0, "events a second, all kinds together"),
    option("--duration", help="how long it sends live, such as 30s or 5m; until stopped when absent"),
    option("--count", type=int, help="how many events it sends at most"),
    option("--history", help="start with this much event time before now, sent at once, such as 6m"),
    option("--pattern", default=Pattern.STEADY.value, show_default=True, help=", ".join(Pattern)),
    option("--seed", type=int, default=1, show_default=True, help="equal seeds give equal events"),
    _number("--invalid-ratio", 0.0, "share of events that break a rule: 0 to 1"),
    _number("--late-ratio", 0.0, "share of events that come ten minutes late: 0 to 1"),
    _number("--duplicate-ratio", 0.0, "share of events that are sent again: 0 to 1"),
    option("--keys", type=int, default=1_000, show_default=True, help="how many devices, and how many users"),
    _number("--zipf-exponent", 1.1, "how unequal the keys are: 0 is equal"),
    option("--via", default=Via.HTTP.value, show_default=True, help="http, or ingress: straight into Kafka"),
    option("--concurrency", type=int, help="events under way at once; 64 over HTTP, 256 through ingress"),
    option("--give-up-after", help="how long one event is tried before the run ends: 60s when absent"),
    option("--json", is_flag=True, help="for machines: the totals as one JSON document"),
)
@plain_errors
async def generate(self: AppCommand, **options: Any) -> None:
    """Send IoT, clickstream and transaction events, valid and not, and print what was sent."""
    settings = app.platform.settings
    parsed = parse_options(**options)
    if parsed.via is Via.HTTP:
        secret = load_or_create_secret(settings)
        scopes = [f"events:write:{kind}" for kind in parsed.kinds]
        token = make_token(settings, secret, scopes, _TOKEN_TTL_S, "generator", time.time())
        await run_generator(parsed, settings, token=token)
        return
    async with aclosing(_Ingress(EventProducer(settings))) as ingress:
        await ingress.producer.start()
        await run_generator(parsed, settings, send=ingress.send)


class _Ingress:
    def __init__(self, producer: EventProducer) -> None:
        self.producer = producer

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        await self.producer.send(OutgoingRecord(topic, key, value, headers), _SEND_DEADLINE_S)

    async def aclose(self) -> None:
        await self.producer.stop()

"""What Faust hands to an agent, as the record that the rest of the platform knows."""

from __future__ import annotations

from typing import Any

from faust.types import EventT

from streams.kafka.consumer import Record, plain


def received(event: EventT[bytes]) -> Record:
    """The record of a Faust event, whose topic is read with raw serializers."""
    message = event.message
    headers: Any = message.headers or ()
    return Record(
        message.topic,
        message.partition,
        message.offset,
        int(message.timestamp * 1000),
        message.key,
        message.value,
        plain(headers.items() if isinstance(headers, dict) else headers),
    )

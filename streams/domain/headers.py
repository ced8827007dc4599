"""The headers of records in `events.*`, and those that a record of `platform.ingress` says its wishes by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from streams.domain.envelope import Event

Headers = tuple[tuple[str, bytes], ...]

EVENT_ID: Final = "event-id"
EVENT_TYPE: Final = "event-type"
CONTENT_TYPE: Final = "content-type"
INGESTED_AT: Final = "ingested-at"
TRACEPARENT: Final = "traceparent"
EVENT_TOPIC: Final = "event-topic"
"""On `platform.ingress`: the API's name of the topic that the event is for."""
INGRESS_ORIGIN: Final = "ingress-origin"
"""On an event that came through `platform.ingress`: the record that it was there, as `partition@offset`."""
DLQ_ORIGIN: Final = "dlq-origin"
"""On an event that was redriven: the dead letter that it was, as `partition@offset` of `platform.dlq`."""

# W3C Trace Context, section 3.2: version, trace id, parent id and flags, lower case hexadecimal.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def event_headers(event: Event, content_type: str, ingested_at_ms: int, traceparent: str | None) -> Headers:
    """The headers of an event's record; `content_type` is that in which it was received.

    A traceparent that is none by W3C Trace Context is left out, as the specification asks.
    """
    headers: Headers = (
        (EVENT_ID, event.event_id.encode()),
        (EVENT_TYPE, event.event_type.encode()),
        (CONTENT_TYPE, content_type.encode()),
        (INGESTED_AT, str(ingested_at_ms).encode()),
    )
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        headers += ((TRACEPARENT, traceparent.encode()),)
    return headers


def media_type(content_type: str) -> str:
    """The media type of a Content-Type, without its parameters, in lower case (RFC 9110, section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def header(headers: Sequence[tuple[str, bytes | None]], name: str) -> str | None:
    """The last value of a header (the one that counts, by Kafka's convention), None where there is none.

    Bytes that are not UTF-8 are replaced: such a value matches nothing that we look for.
    """
    for key, value in reversed(headers):
        if key == name:
            return "" if value is None else value.decode("utf-8", "replace")
    return None

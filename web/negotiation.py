"""Which form of an answer a client prefers (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from web.errors import NotAcceptableError

HTML: Final = "text/html"
JSON: Final = "application/json"

_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)
_MAX_RANGES: Final = 100


def prefers_html(accept: str | None) -> bool:
    """Whether HTML is wanted more than JSON, which is the answer where both are as good, or neither is wanted."""
    ranges = _ranges(accept or "*/*")
    return _quality(ranges, HTML) > _quality(ranges, JSON)


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The media type that is preferred among those offered; the first of them where several are as good.

    Raises NotAcceptableError where none is wanted.
    """
    ranges = _ranges(accept or "*/*")
    best = max(offered, key=lambda type_: _quality(ranges, type_))
    if _quality(ranges, best) == 0:
        raise NotAcceptableError(offered)
    return best


def _ranges(accept: str) -> dict[str, float]:
    """Each media range with its quality. One with parameters of its own, such as a version, is none of ours."""
    found: dict[str, float] = {}
    for item in accept.split(",")[:_MAX_RANGES]:
        range_, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for position, parameter in enumerate(parameters):
            name, _, value = (word.strip() for word in parameter.partition("="))
            if name == "q":
                quality = float(value) if _QUALITY.fullmatch(value) else 0.0
                parameters = parameters[:position]
                break
        if all(parameter in {"", "charset=utf-8"} for parameter in parameters):
            found[range_] = max(quality, found.get(range_, 0.0))
    return found


def _quality(ranges: dict[str, float], type_: str) -> float:
    # The most specific range that fits decides, not the best.
    for range_ in (type_, type_.partition("/")[0] + "/*", "*/*"):
        if range_ in ranges:
            return ranges[range_]
    return 0.0

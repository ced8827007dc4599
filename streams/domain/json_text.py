"""What is looked for in a JSON text that is not taken apart: depth, and long numbers.

Each takes a text whose syntax has been checked, and time in proportion to its length at most.
"""

from __future__ import annotations

import re
from typing import Final

# Possessive (`++`, `*+`): a place to come back to for each character would take a hundred bytes for each.
_NESTING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)

# A number that is too long covers so many of the places that are looked at first, one after the other.
_SAMPLES: Final = 8
_SAMPLED_NUMBER: Final = re.compile(rb"[-+.0-9eE]{%d}" % _SAMPLES)
_AS_ZEROS: Final = bytes(ord("0") if byte in b"-+.0123456789eE" else ord(" ") for byte in range(256))
_STRING_OR_NUMBER: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[-+.0-9eE]+', re.DOTALL)


def depth(text: str) -> int:
    """How deep objects and arrays nest: 1 for `{}`."""
    now = deepest = 0
    for token in _NESTING.finditer(text):
        first = token[0][0]
        if first in "{[":
            now += 1
            deepest = max(deepest, now)
        elif first in "}]":
            now -= 1
    return deepest


def has_longer_number(text: bytes, limit: int) -> bool:
    """Whether a number has more than `limit` characters, 8 or more; digits in strings are no numbers.

    Each look is dearer than the one before; most texts need one, at a character in fifty where the limit is 400.
    """
    if not _SAMPLED_NUMBER.search(text[:: limit // _SAMPLES]) or b"0" * (limit + 1) not in text.translate(_AS_ZEROS):
        return False
    tokens = _STRING_OR_NUMBER.finditer(text)
    return any(token.end() - token.start() > limit and not token[0].startswith(b'"') for token in tokens)

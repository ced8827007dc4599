"""What is looked for in a JSON text, beside a slow and plain reference."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, MalformedEventError
from streams.domain.json_text import depth, has_longer_number
from streams.domain.validation import EventRules, event_from_fields, event_from_json
from tests.strategies import NOW_MS, json_values

LIMIT = 20
RULES = EventRules(max_number_length=LIMIT)

escapes = st.sampled_from(
    [r"\ud83d", r"\uDE00", r"\u00e9", r"\\", r"\"", r"\n", "ud83d", "a", r"\ud83d\ude00", "\U0001f600"]
)
escaped = st.lists(escapes, max_size=8).map(lambda parts: '"' + "".join(parts) + '"')
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
digits = st.from_regex(r"[0-9eE.+-]{0,60}", fullmatch=True).map(json.dumps)
texts = st.recursive(
    numbers | digits | escaped | st.sampled_from(["true", "null"]),
    lambda inner: (
        st.lists(inner, max_size=5).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(digits, inner), max_size=4).map(
            lambda kv: "{" + ",".join(f"{k}: {v}" for k, v in kv) + "}"
        )
    ),
    max_leaves=12,
)


def numbers_in(text: str) -> list[str]:
    """Every number in a JSON text, as Python's own parser finds them."""
    found: list[str] = []

    def note(number: str) -> int:
        found.append(number)
        return 0

    json.loads(text, parse_int=note, parse_float=note)
    return found


@given(texts)
def test_a_long_number_is_found_wherever_it_is_and_digits_in_texts_are_none(text):
    assert has_longer_number(text.encode(), LIMIT) == any(len(number) > LIMIT for number in numbers_in(text))


@pytest.mark.parametrize("limit", [8, 9, 15, 16, 399, 400, 401])
@pytest.mark.parametrize("before", range(0, 60, 7))
def test_the_limit_is_exact_at_every_place(limit, before):
    def text(length: int) -> bytes:
        return b'{"a":"' + b"x" * before + b'","n":' + b"1" * length + b"}"

    assert not has_longer_number(text(limit), limit)
    assert has_longer_number(text(limit + 1), limit)


@given(json_values)
def test_depth_is_that_of_the_value(value):
    def nested(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(nested, inner), default=0)

    assert depth(json.dumps(value)) == nested(value)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\\\\n" * 500_000, "x\\\\n" * 300_000])
def test_a_long_string_takes_no_memory_to_step_over(text):
    document = f'{{"a": "{text}", "n": {"1" * 30}}}'
    encoded = document.encode()
    tracemalloc.start()
    try:
        assert (depth(document), has_longer_number(encoded, LIMIT)) == (1, True)
        # The bytes without their digits, and the string as a token.
        assert tracemalloc.get_traced_memory()[1] < 4 * len(encoded)
    finally:
        tracemalloc.stop()


def read(document: bytes, rules: EventRules = RULES) -> Event:
    return event_from_json(document, rules, NOW_MS, lambda: "made")


def event(more: str) -> bytes:
    return f'{{"event_type": "a", "timestamp": 1, "user_id": "u", {more}}}'.encode()


@given(st.lists(escapes, max_size=8).map("".join), st.booleans())
def test_half_of_a_surrogate_pair_is_no_text(text, as_key):
    """Many a reader stops at it (RFC 8259, section 8.2)."""
    payload = f'{{"{text}": 1}}' if as_key else f'{{"a": "{text}"}}'
    is_text = not re.search("[\ud800-\udfff]", json.loads(f'"{text}"'))
    try:
        found = read(event(f'"payload": {payload}'))
    except MalformedEventError:
        assert not is_text
    else:
        assert is_text
        assert found.payload == payload
    fields = {"event_type": "a", "timestamp": 1, "user_id": "u", "payload": payload}
    try:
        event_from_fields(fields, RULES, NOW_MS, lambda: "made")
    except InvalidEventError:
        assert not is_text
    else:
        assert is_text


@pytest.mark.parametrize(
    ("more", "path", "code"),
    [
        ('"payload": {"a": [%s]}' % ("1" * 21), "/payload", "number_too_long"),
        ('"value": 1.%s' % ("0" * 21), "/value", "number_too_long"),
        ('"value": 1.%s, "value": 1' % ("0" * 21), "", "number_too_long"),
        ('"value": "1", "value": 1', "", "invalid_type"),
        ('"value": 1%s' % ("0" * 310), "/value", "invalid_type"),
        ('"value": 1e999', "/value", "invalid_type"),
    ],
)  # fmt: skip
def test_what_other_readers_stop_at_is_refused(more, path, code):
    with pytest.raises(InvalidEventError) as refused:
        read(event(more))
    assert (path, code) in {(error.path, error.code) for error in refused.value.errors}


@pytest.mark.parametrize(
    "more",
    [
        '"payload": {"a": "%s"}' % ("1" * 500),
        '"source": "%s"' % ("1" * 100),
        '"value": %s' % ("1" * 20),
        r'"payload": {"a": "\ud83d\ude00 \\ud800 \u00e9"}',
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_taken(more):
    assert read(event(more)).user_id == "u"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "0x1", "1_000"])
def test_what_json_does_not_have_is_malformed(literal):
    for more in (f'"value": {literal}', f'"payload": {{"a": {literal}}}'):
        with pytest.raises(MalformedEventError):
            read(event(more))


def test_a_byte_order_mark_is_named():
    with pytest.raises(MalformedEventError, match="byte order mark"):
        read(b"\xef\xbb\xbf" + event('"value": 1'))


def test_of_a_field_that_is_there_twice_the_last_counts_and_a_payload_is_kept_as_it_is():
    found = read(event('"value": 1, "value": 2, "payload": {"a": 1, "a": 2}'))
    assert (found.value, found.payload) == (2.0, '{"a": 1, "a": 2}')


def test_nul_is_a_character_like_others():
    found = read(event(r'"source": "a\u0000b", "payload": {"\u0000": "\u0000"}'))
    assert (found.source, found.payload) == ("a\0b", r'{"\u0000": "\u0000"}')


def test_the_payload_of_a_binary_format_is_looked_at_in_the_same_way():
    fields = {"event_type": "a", "timestamp": 1, "user_id": "u", "payload": '{"a": %s}' % ("1" * 21)}
    with pytest.raises(InvalidEventError, match="more than 20 characters"):
        event_from_fields(fields, RULES, NOW_MS, lambda: "made")


def test_strings_that_never_end_are_not_looked_through_from_every_quote():
    """A binary format's payload is any text: where this one is searched before its syntax is looked at, it takes a minute."""
    fields = {"event_type": "a", "timestamp": 1, "user_id": "u", "payload": '{"' + '\\"' * 80_000 + "0" * 500}
    began = time.process_time()
    with pytest.raises(InvalidEventError) as refused:
        event_from_fields(fields, EventRules(), NOW_MS, lambda: "made")
    assert time.process_time() - began < 2
    assert [(error.path, error.code) for error in refused.value.errors] == [("/payload", "invalid_type")]


def test_the_usual_limit_is_400_characters():
    assert read(event('"payload": {"a": %s}' % ("1" * 400)), EventRules())
    with pytest.raises(InvalidEventError, match="400"):
        read(event('"payload": {"a": %s}' % ("1" * 401)), EventRules())

"""Ids that are made for events."""

from __future__ import annotations

import os
import re
import time
import uuid

from streams.event_ids import new_event_id

SHAPE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_an_id_is_a_uuid_of_version_7_in_lower_case():
    for _ in range(1_000):
        made = new_event_id()
        assert SHAPE.fullmatch(made)
        assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (7, uuid.RFC_4122)


def test_no_two_ids_are_alike():
    assert len({new_event_id() for _ in range(20_000)}) == 20_000


def test_an_id_begins_with_the_time_it_was_made_at():
    before = time.time_ns() // 1_000_000
    ms = uuid.UUID(new_event_id()).int >> 80
    assert before <= ms <= time.time_ns() // 1_000_000


def test_every_bit_that_may_be_random_is():
    ones = zeros = 0
    for _ in range(200):
        number = uuid.UUID(new_event_id()).int
        ones |= number
        zeros |= ~number
    random = ((1 << 12) - 1) << 64 | ((1 << 62) - 1)
    assert ones & random == zeros & random == random


def test_a_child_process_makes_other_ids_than_its_parent():
    new_event_id()  # so that there is a block to inherit
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, "".join(new_event_id() for _ in range(50)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read().decode()
    os.waitpid(child, 0)
    tails = {theirs[at + 14 : at + 36] for at in range(0, len(theirs), 36)}
    assert len(tails) == 50
    assert not tails & {new_event_id()[14:] for _ in range(300)}

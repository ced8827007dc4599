"""A few readers for many questions."""

from __future__ import annotations

import asyncio

import pytest

from streams.domain.errors import KafkaUnavailableError, OverloadedError
from streams.kafka.reader_pool import WAITING_PER_READER, ReaderPool
from tests.platform import eventually
from tests.web_gateway import MemoryReader


class Readers:
    """Counts what a pool opens."""

    def __init__(self):
        self.made = []

    def __call__(self):
        self.made.append(MemoryReader([]))
        return self.made[-1]

    @property
    def open(self):
        return sum(reader.started - reader.stopped for reader in self.made)


async def test_a_slow_question_holds_up_no_other():
    readers = Readers()
    pool = ReaderPool(readers, 2)
    async with pool.reader():
        for _ in range(5):
            async with asyncio.timeout(1), pool.reader():
                pass
    assert readers.open == 2
    await pool.close()
    assert readers.open == 0


async def test_no_two_questions_have_the_same_reader_and_there_are_no_more_than_allowed():
    readers, busy, most = Readers(), [], 0
    pool = ReaderPool(readers, 3)

    async def ask():
        nonlocal most
        async with pool.reader() as reader:
            assert reader not in busy
            busy.append(reader)
            most = max(most, len(busy))
            await asyncio.sleep(0.001)
            busy.remove(reader)

    await asyncio.gather(*[ask() for _ in range(40)])
    assert (most, readers.open) == (3, 3)
    await pool.close()


async def test_a_line_that_is_too_long_is_refused_at_once():
    pool = ReaderPool(Readers(), 1)
    release = asyncio.Event()

    async def ask():
        async with pool.reader():
            await release.wait()

    asking = [asyncio.create_task(ask()) for _ in range(1 + WAITING_PER_READER)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        async with asyncio.timeout(1):
            await ask()
    release.set()
    await asyncio.gather(*asking)
    await ask()
    await pool.close()


async def test_a_reader_left_in_the_middle_is_closed_and_its_place_is_free():
    readers = Readers()
    pool = ReaderPool(readers, 1)
    with pytest.raises(KafkaUnavailableError):
        async with pool.reader():
            raise KafkaUnavailableError("away")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), pool.reader():
            await asyncio.Event().wait()
    async with asyncio.timeout(1), pool.reader() as reader:
        assert reader is readers.made[2]
    await asyncio.sleep(0)
    assert [made.stopped for made in readers.made] == [1, 1, 0]
    await pool.close()


async def test_one_that_cannot_connect_leaves_its_place_free():
    readers = Readers()

    def broken():
        reader = readers()
        reader.fails = KafkaUnavailableError("away") if len(readers.made) == 1 else None
        return reader

    pool = ReaderPool(broken, 1)
    with pytest.raises(KafkaUnavailableError):
        async with pool.reader():
            pass
    async with asyncio.timeout(1), pool.reader():
        pass
    await pool.close()


async def test_readers_that_nobody_asks_are_closed():
    readers = Readers()
    pool = ReaderPool(readers, 2, idle_s=0.02)
    async with pool.reader(), pool.reader():
        pass
    assert readers.open == 2

    async def closed():
        return readers.open == 0

    await eventually(closed, within_s=2)
    async with pool.reader():
        assert readers.open == 1
    await pool.close()


async def test_readers_that_nobody_asks_are_closed_also_after_the_pool_was_closed_once():
    readers = Readers()
    pool = ReaderPool(readers, 1, idle_s=0.02)
    for _ in range(2):
        async with pool.reader():
            pass
        await pool.close()
    async with pool.reader():
        pass

    async def closed():
        return readers.open == 0

    await eventually(closed, within_s=2)

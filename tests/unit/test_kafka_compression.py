"""Whatever a client compresses with, its records can be read: one that cannot would stop every worker."""

from __future__ import annotations

import pytest
from aiokafka import codec


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_records_of_every_compression_that_kafka_knows_can_be_read(name: str) -> None:
    assert getattr(codec, f"has_{name}")()
    data = b"event" * 100
    assert getattr(codec, f"{name}_decode")(getattr(codec, f"{name}_encode")(data)) == data

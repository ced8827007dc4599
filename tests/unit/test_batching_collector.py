"""How Python's collector of cycles is set in a worker."""

from __future__ import annotations

import gc

import pytest

from streams.kafka.batching.collector import YOUNG_OBJECTS, spare_records


@pytest.fixture(autouse=True)
def as_before():
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    yield
    gc.set_threshold(*thresholds)
    if not frozen:
        gc.unfreeze()


def test_the_collector_starts_seldom_and_leaves_out_what_is_there():
    gc.set_threshold(700, 10, 10)
    gc.unfreeze()
    spare_records()
    assert gc.get_threshold() == (YOUNG_OBJECTS, 10, 10)
    assert gc.get_freeze_count() > 0


@pytest.mark.parametrize("young", [0, 100_000])
def test_a_collector_that_somebody_has_set_higher_or_off_stays_so(young):
    gc.set_threshold(young, 3, 4)
    spare_records()
    assert gc.get_threshold() == (young, 3, 4)

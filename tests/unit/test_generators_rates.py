"""Rates and keys: the patterns' means, bounds and inverses, and Zipf's law."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice, pairwise

import pytest

from streams.generators.draws import Draws, Weighted
from streams.generators.rates import Diurnal, Pattern, RateProfile, Spike, Steady, shape_of
from streams.generators.zipf import ZipfSampler


@pytest.mark.parametrize("shape", [Steady(), Spike(), Diurnal(600.0), Diurnal(86_400.0)])
def test_the_area_is_the_integral_of_the_height(shape):
    steps = 200_000
    width = 137.0 / steps
    integral = sum(shape.at((i + 0.5) * width) for i in range(steps)) * width
    assert shape.area(137.0) == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize("duration_s", [3.0, 22.0, 60.0, 250.0])
def test_the_mean_rate_over_the_duration_is_the_rate(pattern, duration_s):
    profile = RateProfile(shape_of(pattern, 600.0), 40.0, duration_s)
    arrivals = list(profile.arrivals(Draws(1, "t")))
    assert len(arrivals) == 40 * duration_s
    assert arrivals[0] >= 0.0
    assert arrivals[-1] <= duration_s + 1e-6
    assert all(a <= b for a, b in pairwise(arrivals))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_without_a_duration_the_mean_holds_over_each_period(pattern):
    profile = RateProfile(shape_of(pattern, 100.0), 50.0)
    period_s = profile.shape.period_s
    n = int(50.0 * period_s * 3)
    arrivals = list(islice(profile.arrivals(Draws(2, "t")), n))
    assert arrivals[-1] == pytest.approx(3 * period_s, rel=0.02)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_second_has_as_many_arrivals_as_the_rate_says(pattern):
    profile = RateProfile(shape_of(pattern, 120.0), 500.0, 120.0)
    per_second = Counter(int(t) for t in profile.arrivals(Draws(3, "t")))
    for second in range(120):
        expected = profile.scale * (profile.shape.area(second + 1.0) - profile.shape.area(float(second)))
        assert abs(per_second[second] - expected) <= 2.0


def test_a_spike_is_ten_times_the_base_for_five_seconds_of_each_minute():
    shape = Spike()
    assert [shape.at(t) for t in (0.0, 19.9, 20.0, 24.9, 25.0, 59.9, 80.0)] == [1, 1, 10, 10, 1, 1, 10]


def test_a_day_is_quietest_at_its_start_and_busiest_in_its_middle():
    shape = Diurnal(600.0)
    heights = [shape.at(float(t)) for t in range(600)]
    assert (heights.index(min(heights)), heights.index(max(heights))) == (0, 300)


def test_arrivals_are_jittered_not_metronomic():
    gaps = [b - a for a, b in pairwise(RateProfile(Steady(), 100.0, 10.0).arrivals(Draws(1, "t")))]
    assert max(gaps) > 0.015
    assert min(gaps) < 0.005


def test_keys_follow_zipfs_law():
    sampler = ZipfSampler(1_000, 1.1)
    draws = Draws(11, "keys")
    n = 200_000
    seen = Counter(sampler.rank(draws.uniform()) for _ in range(n))
    norm = sum((k + 1) ** -1.1 for k in range(1_000))
    chi_square = sum((seen[k] - n * (k + 1) ** -1.1 / norm) ** 2 / (n * (k + 1) ** -1.1 / norm) for k in range(1_000))
    # 999 degrees of freedom: mean 999, standard deviation 44.7.
    assert abs(chi_square - 999) < 5 * 44.7
    assert set(seen) <= set(range(1_000))
    slope = (math.log(seen[0]) - math.log(seen[31])) / math.log(32)
    assert slope == pytest.approx(1.1, abs=0.1)


def test_an_exponent_of_zero_makes_every_key_as_likely():
    sampler = ZipfSampler(4, 0.0)
    assert [sampler.probability(k) for k in range(4)] == [0.25] * 4


def test_a_uniform_number_just_below_one_is_the_last_rank():
    assert ZipfSampler(7, 1.1).rank(math.nextafter(1.0, 0.0)) == 6
    assert ZipfSampler(1, 1.1).rank(0.0) == 0


@pytest.mark.parametrize(("n", "exponent"), [(0, 1.0), (5, -0.1)])
def test_a_sampler_refuses_what_it_cannot_do(n, exponent):
    with pytest.raises(ValueError, match="must be"):
        ZipfSampler(n, exponent)


def test_normal_draws_are_standard_and_log_normal_ones_have_their_median():
    draws = Draws(5, "n")
    normal = [draws.normal() for _ in range(50_000)]
    assert sum(normal) / 50_000 == pytest.approx(0, abs=0.02)
    assert sum(x * x for x in normal) / 50_000 == pytest.approx(1, abs=0.03)
    amounts = sorted(draws.log_normal(28.0, 1.1) for _ in range(20_000))
    assert amounts[10_000] == pytest.approx(28.0, rel=0.05)


def test_streams_of_one_seed_are_independent():
    assert [Draws(1, "a").uniform() for _ in range(3)] != [Draws(1, "b").uniform() for _ in range(3)]


def test_a_weighted_choice_keeps_its_weights():
    choice = Weighted({"often": 3.0, "seldom": 1.0})
    draws = Draws(1, "w")
    seen = Counter(choice.pick(draws) for _ in range(10_000))
    assert seen["often"] / 10_000 == pytest.approx(0.75, abs=0.02)

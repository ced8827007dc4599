"""Money: mostly small payments at home, and now and then a burst from abroad that looks like fraud."""

from __future__ import annotations

from typing import Final

from streams.generators.draws import Draws, Weighted
from streams.generators.emission import Draft
from streams.generators.zipf import ZipfSampler

BURST_PROBABILITY: Final = 0.002
BURST_LENGTH: Final = (6, 15)

_HOMES: Final = (
    ("DE", "EUR"),
    ("FR", "EUR"),
    ("PT", "EUR"),
    ("US", "USD"),
    ("GB", "GBP"),
    ("CH", "CHF"),
    ("PL", "PLN"),
)
_COUNTRIES: Final = tuple(country for country, _ in _HOMES)
_ABROAD: Final = ("BR", "NG", "RO", "VN")
_MERCHANTS: Final = Weighted(
    {
        "grocer-01": 30.0,
        "coffee-07": 22.0,
        "fuel-11": 14.0,
        "books-03": 10.0,
        "air-02": 4.0,
        "hotel-09": 6.0,
        "web-42": 14.0,
    }
)
_TYPES: Final = Weighted({"payment": 82.0, "transfer": 12.0, "refund": 6.0})


class Transactions:
    """Events payment, refund and transfer, keyed by user."""

    text_timestamps = False

    def __init__(self, draws: Draws, keys: ZipfSampler) -> None:
        self._draws = draws
        self._keys = keys
        self._burst_rank = 0
        self._burst_left = 0

    def draft(self, event_time_ms: int) -> Draft:  # noqa: ARG002  (a Kind takes it)
        """The next event. The value is the amount in the payload's currency; of a refund, it is below 0."""
        draws = self._draws
        # A burst mingles with other users' traffic, as it does in life.
        if self._burst_left and draws.chance(0.5):
            self._burst_left -= 1
            return self._fraud(self._burst_rank)
        rank = self._keys.rank(draws.uniform())
        if not self._burst_left and draws.chance(BURST_PROBABILITY):
            self._burst_rank = rank
            self._burst_left = BURST_LENGTH[0] + draws.below(BURST_LENGTH[1] - BURST_LENGTH[0] + 1)
        country, currency = self._home(rank)
        event_type = _TYPES.pick(draws)
        amount = max(round(draws.log_normal(28.0, 1.1), 2), 0.01)
        payload: dict[str, object] = {"currency": currency, "transaction_id": draws.token()}
        if event_type == "transfer":
            payload["to"] = f"user-{self._keys.rank(draws.uniform()):06d}"
        else:
            payload["merchant"] = _MERCHANTS.pick(draws)
            payload["card"] = {
                "country": country if draws.chance(0.96) else draws.pick(_COUNTRIES),
                "present": draws.chance(0.6),
            }
        return self._event(event_type, rank, -amount if event_type == "refund" else amount, payload)

    def _fraud(self, rank: int) -> Draft:
        draws = self._draws
        payload: dict[str, object] = {
            "currency": self._home(rank)[1],
            "transaction_id": draws.token(),
            "merchant": f"web-{draws.below(90) + 10}",
            "card": {"country": draws.pick(_ABROAD), "present": False},
        }
        return self._event("payment", rank, round(draws.log_normal(420.0, 0.5), 2), payload)

    @staticmethod
    def _home(rank: int) -> tuple[str, str]:
        return _HOMES[rank * 5 % len(_HOMES)]

    @staticmethod
    def _event(event_type: str, rank: int, value: float, payload: dict[str, object]) -> Draft:
        return Draft(event_type, f"user-{rank:06d}", None, value, "checkout", payload)

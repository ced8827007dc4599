"""Visitors of a shop: each user walks through sessions of page views, clicks and searches."""

from __future__ import annotations

import math
from typing import Final

from streams.generators.draws import Draws, Weighted
from streams.generators.emission import Draft
from streams.generators.zipf import ZipfSampler

MEAN_SESSION_EVENTS: Final = 9.0

_AGENTS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 Version/18.6 Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/142.0.0.0 Mobile Safari/537.36",
)
_REFERRERS: Final = Weighted(
    {
        "https://www.example.com/search": 45.0,
        "": 30.0,
        "https://news.example.org/deals": 15.0,
        "https://social.example.net/": 10.0,
    }
)
_PATHS: Final = Weighted(
    {"/": 20.0, "/products": 25.0, "/products/{}": 35.0, "/cart": 10.0, "/checkout": 4.0, "/help": 6.0}
)
_QUERIES: Final = ("running shoes", "café press", "usb-c cable", "naïve bayes", "winter coat", "テント", "lamp", "desk")
_ELEMENTS: Final = ("buy", "add-to-cart", "image", "review", "next-page", "filter")


class _Session:
    """Where a user is."""

    __slots__ = ("agent", "duration_s", "left", "path", "referrer", "session_id")

    def __init__(self, draws: Draws, rank: int) -> None:
        self.session_id = draws.token()
        # Geometric: each event may be the last, so most visits are short and some are long.
        self.left = 1 + int(math.log(1.0 - draws.uniform()) / math.log(1.0 - 1.0 / MEAN_SESSION_EVENTS))
        self.duration_s = 0.0
        self.path = "/"
        self.referrer = _REFERRERS.pick(draws)
        self.agent = _AGENTS[rank * 7 % len(_AGENTS)]


class Clickstream:
    """Events session.start, page.view, page.click, search and session.end, keyed by user."""

    text_timestamps = True

    def __init__(self, draws: Draws, keys: ZipfSampler) -> None:
        self._draws = draws
        self._keys = keys
        self._sessions: dict[int, _Session] = {}

    def draft(self, event_time_ms: int) -> Draft:  # noqa: ARG002  (a Kind takes it)
        """The next event. The value of a view or an end of session is a duration in seconds; others have none."""
        draws = self._draws
        rank = self._keys.rank(draws.uniform())
        session = self._sessions.get(rank)
        if session is None:
            session = self._sessions[rank] = _Session(draws, rank)
            landing: dict[str, object] = {"referrer": session.referrer, "user_agent": session.agent, "path": "/"}
            return self._event("session.start", rank, None, session, landing)
        if session.left == 0:
            del self._sessions[rank]
            return self._event("session.end", rank, round(session.duration_s, 2), session, {"path": session.path})
        session.left -= 1
        dice = draws.uniform()
        if dice < 0.25:
            click: dict[str, object] = {
                "path": session.path,
                "element": draws.pick(_ELEMENTS),
                "at": [draws.below(1_440), draws.below(900)],
            }
            return self._event("page.click", rank, None, session, click)
        if dice < 0.35:
            search: dict[str, object] = {"query": draws.pick(_QUERIES), "results": draws.below(200)}
            return self._event("search", rank, None, session, search)
        return self._view(rank, session)

    def _view(self, rank: int, session: _Session) -> Draft:
        draws = self._draws
        came_from, session.path = session.path, _PATHS.pick(draws).format(draws.below(5_000))
        dwell_s = round(min(draws.log_normal(12.0, 0.9), 1_800.0), 2)
        session.duration_s += dwell_s
        view: dict[str, object] = {"path": session.path, "referrer": came_from, "user_agent": session.agent}
        return self._event("page.view", rank, dwell_s, session, view)

    @staticmethod
    def _event(event_type: str, rank: int, value: float | None, session: _Session, payload: dict[str, object]) -> Draft:
        payload["session_id"] = session.session_id
        return Draft(event_type, f"user-{rank:06d}", None, value, "web", payload)

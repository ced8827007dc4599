"""Health: `live` while the event loop runs, `ready` while the worker can keep its promises.

The answers are open to anyone, so they say what is missing by its code; the log has the message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import hdrs, web

from streams.domain.errors import PlatformError
from streams.kafka.batching import Phase, complaint
from web.services import Services

log = logging.getLogger(__name__)

KAFKA_TTL_S: Final = 2.0
REGISTRY_TTL_S: Final = 5.0
TIMEOUT_S: Final = 1.0
PATIENCE_S: Final = 5.0
"""How long the producer or the live streams may be in trouble that they get out of by themselves."""


class Probe:
    """Asks something whether it answers; not more often than its time to live, and never twice at once."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[None]],
        *,
        ttl_s: float,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._ask = ask
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._asking: asyncio.Task[str | None] | None = None
        self._answered_at = float("-inf")
        self._answer: str | None = None

    async def failure(self) -> str | None:
        """What is wrong; None where nothing is. Takes `timeout_s` at most."""
        if self._asking is None:
            if self._clock() - self._answered_at < self._ttl_s:
                return self._answer
            self._asking = asyncio.get_running_loop().create_task(self._try())
        done, _ = await asyncio.wait({self._asking}, timeout=self._timeout_s)
        if not done:
            # It goes on, and who asks next waits for the same: a hanging Kafka must not gather threads.
            return f"no answer within {self._timeout_s:g} s"
        return self._answer

    async def _try(self) -> str | None:
        try:
            await self._ask()
        except PlatformError as exc:
            log.debug("%s: %s", self._name, exc)
            self._answer = exc.code
        except Exception:
            log.exception("the probe of %s failed", self._name)
            self._answer = PlatformError.code
        else:
            self._answer = None
        self._answered_at = self._clock()
        self._asking = None
        return self._answer

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
            self._asking = None


class Lasting:
    """Tells a trouble only once it has lasted, as far as it was looked at."""

    def __init__(self, patience_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._since: float | None = None

    def failure(self, trouble: str | None) -> str | None:
        """The trouble, if there has been one for long enough; None otherwise."""
        if trouble is None:
            self._since = None
            return None
        if self._since is None:
            self._since = self._clock()
        return trouble if self._clock() - self._since >= self._patience_s else None


class Check(msgspec.Struct, omit_defaults=True):
    """One thing that the worker needs."""

    ok: bool
    detail: str | None = None


class Report(msgspec.Struct):
    """The answer of /health and /health/ready."""

    status: str
    checks: dict[str, Check]


class Health:
    """The health handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._kafka = Probe("Kafka", services.admin.ping, ttl_s=KAFKA_TTL_S)
        self._registry = Probe("the schema registry", services.registry.ping, ttl_s=REGISTRY_TTL_S)
        self._producer, self._live = Lasting(PATIENCE_S), Lasting(PATIENCE_S)
        self._was_ready: bool | None = None

    async def live(self, _: web.Request) -> web.Response:
        """GET /health/live: 200 whenever it can answer at all. For restarts: it depends on nothing else."""
        return _answer(Report("ok", {}), ready=True)

    async def ready(self, _: web.Request) -> web.Response:
        """GET /health/ready, GET /health: 200, or 503 with what is missing. For traffic, not for restarts."""
        report = await self.report()
        ready = report.status == "ok"
        if ready is not self._was_ready:
            self._was_ready = ready
            if ready:
                log.info("ready")
            else:
                log.warning(
                    "not ready: %s", "; ".join(f"{k}: {c.detail}" for k, c in report.checks.items() if not c.ok)
                )
        return _answer(report, ready=ready)

    async def report(self) -> Report:
        """Every check."""
        kafka, registry = await asyncio.gather(self._kafka.failure(), self._registry.failure())
        waiting = self._services.waiting_for()
        failures = {
            "startup": None if waiting is None else f"waits for {waiting}",
            "kafka": kafka,
            "registry": registry,
            "producer": self._producer.failure(self._services.producer.trouble),
            "live": self._live.failure(self._services.hub.trouble),
            "tables": "not started" if waiting is not None else self._services.tables_waiting(),
            "agents": self._stalled(),
        }
        checks = {name: Check(failure is None, failure) for name, failure in failures.items()}
        return Report("ok" if all(check.ok for check in checks.values()) else "failing", checks)

    def _stalled(self) -> str | None:
        """The first partition that does not go on, in words that anyone may read; None where all do."""
        for status in self._services.tables.status():
            if (text := complaint(status, self._services.settings.agent_stall_s)) is not None:
                # What is added to another phase is an error's own text, which may speak of our insides.
                return text if status.phase is Phase.RUNNING else f"{status.source} is {status.phase}"
        return None

    async def close(self) -> None:
        """Ask no more."""
        await self._kafka.close()
        await self._registry.close()


def _answer(report: Report, *, ready: bool) -> web.Response:
    return web.Response(
        status=200 if ready else 503,
        content_type="application/json",
        body=msgspec.json.encode(report),
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )

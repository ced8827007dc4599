"""A run of the generator, from waiting for the platform to printing the totals."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from streams.domain.errors import ConfigurationError, PlatformError
from streams.generators.http_sink import HttpSink, base_url
from streams.generators.ingress_sink import IngressSink, SendRecord
from streams.generators.options import GeneratorOptions, Via
from streams.generators.pacing import drive
from streams.generators.plan import emissions
from streams.generators.progress import show_progress
from streams.generators.readiness import wait_until_ready
from streams.generators.report import write_totals
from streams.generators.sink import Sink
from streams.generators.totals import Totals
from streams.settings import Settings

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


async def run_generator(
    options: GeneratorOptions,
    settings: Settings,
    *,
    token: str | None = None,
    send: SendRecord | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
    stop: asyncio.Event | None = None,
    handle_signals: bool = True,
) -> Totals:
    """Send what the options ask for, print the totals to `out` (standard output) and return them.

    Over HTTP it takes a `token` and waits until the worker is ready; through ingress it takes `send`. Progress
    goes to `err` (standard error). SIGINT, SIGTERM, `stop` or a cancellation ends the run early: events under
    way are finished, then the totals printed; a second signal does not wait for them.
    Raises ConfigurationError where token or send is missing, UnavailableError where the platform was not ready
    or stopped taking events for `give_up_after_s`, and AuthenticationError, PermissionDeniedError,
    UnknownTopicError or any other PlatformError that no retry can mend. The totals are printed before.
    """
    out, err = out or sys.stdout, err or sys.stderr
    totals = Totals(late_by_s=options.late_by_s)
    totals.via, totals.seed = options.via, options.seed
    run = _Run(options, settings, totals, err, stop or asyncio.Event())
    sink = _sink(options, settings, token, send)
    running = asyncio.create_task(run.work(sink))
    try:
        with _signals(run.on_signal(sink, running), enabled=handle_signals):
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                if running.cancelled():
                    # By a second signal; the totals are all the same worth having.
                    return totals
                await run.finish(sink, running)
                raise
    except PlatformError as exc:
        totals.stopped_by = totals.stopped_by or exc.code
        raise
    finally:
        await sink.aclose()
        write_totals(totals, out, as_json=options.json)
    return totals


class _Run:
    """The moving parts of one run."""

    def __init__(
        self, options: GeneratorOptions, settings: Settings, totals: Totals, err: TextIO, stop: asyncio.Event
    ) -> None:
        self._options = options
        self._settings = settings
        self._totals = totals
        self._err = err
        self._stop = stop

    async def work(self, sink: Sink) -> None:
        """Wait for the platform, then send everything."""
        options = self._options
        if options.via is Via.HTTP:
            policy = self._settings.retry_policy(options.ready_within_s)
            await wait_until_ready(base_url(self._settings), policy, self._stop, self._say)
        if self._stop.is_set():
            return
        # Only now: the history ends, and the live part begins, when the platform is ready.
        start_ms = options.start_ms if options.start_ms is not None else time.time_ns() // 1_000_000
        self._totals.start_ms = start_ms
        began = time.monotonic()
        progress = asyncio.create_task(show_progress(self._totals, self._err))
        watch = asyncio.create_task(self._abandon_when_stopped(sink))
        try:
            await drive(emissions(options, start_ms), sink, self._totals, workers=options.workers, stop=self._stop)
        finally:
            self._totals.elapsed_s = time.monotonic() - began
            for task in (progress, watch):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def halt(self, sink: Sink, reason: str) -> None:
        """End the run early."""
        self._totals.stopped_by = self._totals.stopped_by or reason
        self._stop.set()
        sink.abandon()

    async def finish(self, sink: Sink, running: asyncio.Task[None]) -> None:
        """End the run because the caller is cancelled; an error on the way must not hide that, so it is said."""
        self.halt(sink, "cancellation")
        (error,) = await asyncio.gather(running, return_exceptions=True)
        if error is not None:
            self._say(f"{type(error).__name__}: {error}")

    def on_signal(self, sink: Sink, running: asyncio.Task[None]) -> Callable[[signal.Signals], None]:
        """What a signal does: the first ends the run, the second does not wait for what is under way."""

        def handle(number: signal.Signals) -> None:
            if self._stop.is_set():
                running.cancel()
            else:
                self.halt(sink, number.name)
                self._say("finishing the events under way; again to end at once")

        return handle

    async def _abandon_when_stopped(self, sink: Sink) -> None:
        await self._stop.wait()
        sink.abandon()

    def _say(self, text: str) -> None:
        self._err.write(text + "\n")
        self._err.flush()


def _sink(options: GeneratorOptions, settings: Settings, token: str | None, send: SendRecord | None) -> Sink:
    if options.via is Via.HTTP:
        if token is None:
            raise ConfigurationError("--via http takes a token")
        return HttpSink(settings, token, connections=options.workers, give_up_after_s=options.give_up_after_s)
    if send is None:
        raise ConfigurationError("--via ingress takes a Kafka producer")
    return IngressSink(settings, send, give_up_after_s=options.give_up_after_s)


@contextmanager
def _signals(handle: Callable[[signal.Signals], None], *, enabled: bool) -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside; only the main thread can."""
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])

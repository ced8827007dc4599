"""Events straight into Kafka's `platform.ingress`, where the worker validates and routes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.domain.errors import KafkaUnavailableError, PlatformError
from streams.domain.headers import CONTENT_TYPE, EVENT_TOPIC
from streams.domain.naming import INGRESS
from streams.generators.emission import Emission
from streams.generators.sink import AbandonedError, Outcome, Verdict
from streams.retrying import retrying
from streams.settings import Settings


class SendRecord(Protocol):
    """Writes one record and returns when it is acknowledged, acks=all by an idempotent producer.

    Raises PlatformError: KafkaUnavailableError where the record may or may not be written.
    """

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]], /
    ) -> object:
        """Write it."""
        ...


class IngressSink:
    """Produces to `platform.ingress`.

    Kafka takes any bytes, so the verdicts are what the worker must decide later: an invalid event is REJECTED
    when Kafka has acknowledged it, and must turn up in the dead-letter queue.
    """

    def __init__(self, settings: Settings, send: SendRecord, *, give_up_after_s: float) -> None:
        self._send = send
        self._policy = settings.retry_policy(give_up_after_s)
        self._abandoned = False

    async def send(self, emission: Emission) -> Outcome:
        """See Sink."""
        retries = 0
        uncertain = False
        headers = ((EVENT_TOPIC, emission.topic.encode()), (CONTENT_TYPE, b"application/json"))

        async def attempt() -> None:
            nonlocal uncertain
            if retries and self._abandoned:
                raise AbandonedError
            try:
                await self._send(INGRESS, emission.key, emission.body, headers)
            except KafkaUnavailableError:
                uncertain = True
                raise

        def count_retry(_error: Exception, failures: int) -> None:
            nonlocal retries
            retries = failures

        try:
            await retrying(attempt, self._policy, on_retry=count_retry)
        except AbandonedError:
            return Outcome(Verdict.FAILED, retries - 1, uncertain)
        except PlatformError as exc:
            return Outcome(Verdict.FAILED, retries, uncertain, fatal=exc)
        return Outcome(Verdict.ACCEPTED if emission.error is None else Verdict.REJECTED, retries, uncertain)

    def abandon(self) -> None:
        """See Sink."""
        self._abandoned = True

    async def aclose(self) -> None:
        """See Sink; the producer belongs to the caller."""

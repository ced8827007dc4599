"""What must be there before the job can start, and the waiting for it."""

from __future__ import annotations

import base64
import http.client
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final

from streams.domain.errors import ConfigurationError, RegistryAccessError
from streams.domain.naming import AGGREGATES, EVENTS_PREFIX, LATE
from streams.domain.retry import RetryPolicy
from streams.settings import Settings

TIMEOUT_S: Final = 5.0
SAY_AGAIN_S: Final = 30.0

Lack = str | None
"""What is missing, in words, or None."""


def wait_until_there(
    lacks: Callable[[], Lack],
    policy: RetryPolicy,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    uniform: Callable[[], float] = random.random,
) -> None:
    """Ask until nothing is lacking; say what is, when that changes and every 30 seconds.

    Raises what `lacks` raises, and TimeoutError with what is lacking when the policy's deadline is over.
    """
    began = clock()
    failures = 0
    told: tuple[str, float] | None = None
    while (lack := lacks()) is not None:
        failures += 1
        now = clock()
        if told is None or told[0] != lack or now - told[1] >= SAY_AGAIN_S:
            say(lack)
            told = (lack, now)
        delay = policy.delay_s(failures, now - began, uniform())
        if delay is None:
            raise TimeoutError(lack)
        sleep(delay)


def broker_lacks(settings: Settings) -> Lack:
    """Whether any of the bootstrap servers takes a connection."""
    reasons = []
    for server in settings.kafka_bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S).close()
        except OSError as exc:
            reasons.append(f"{server} ({exc.strerror or exc})")
        else:
            return None
    return f"Kafka at {', '.join(reasons)}"


def registry_lacks(settings: Settings) -> Lack:
    """Whether the registry serves its subjects.

    Raises RegistryAccessError where it refuses us, ConfigurationError for a CA file that is none.
    """
    # The setting takes http and https URLs alone; Java knows no proxy from the environment, so we use none either.
    request = urllib.request.Request(f"{settings.registry_url.rstrip('/')}/subjects")  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *_tls(settings))
    if settings.registry_username is not None and settings.registry_password is not None:
        credentials = f"{settings.registry_username}:{settings.registry_password.get_secret_value()}"
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with opener.open(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as exc:
        if exc.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise RegistryAccessError(
                f"the schema registry at {settings.registry_url} refuses us with {exc.code};"
                " see STREAMS_REGISTRY_USERNAME and STREAMS_REGISTRY_PASSWORD"
            ) from exc
        reason = f"status {exc.code}"
    except urllib.error.URLError as exc:
        reason = str(exc.reason)
    except (OSError, http.client.HTTPException) as exc:
        reason = str(exc) or type(exc).__name__
    return f"the schema registry at {settings.registry_url} ({reason})"


def topics_lack(topics: Collection[str]) -> Lack:
    """Whether the topics are there that the job reads and writes; the worker creates them."""
    missing = [name for name in (AGGREGATES, LATE) if name not in topics]
    if not any(name.startswith(EVENTS_PREFIX) for name in topics):
        missing.append(f"{EVENTS_PREFIX}* (any)")
    return f"the Kafka topics {', '.join(missing)}" if missing else None


def _tls(settings: Settings) -> list[urllib.request.BaseHandler]:
    if settings.registry_ssl_ca_file is None:
        return []
    try:
        context = ssl.create_default_context(cafile=settings.registry_ssl_ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(
            f"STREAMS_REGISTRY_SSL_CA_FILE: {str(settings.registry_ssl_ca_file)!r} cannot be used ({exc})"
        ) from exc
    return [urllib.request.HTTPSHandler(context=context)]

"""When each component is ready: asked from outside, as its users would find it."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.settings import LocalSettings, kafka_port
from streams.settings import Settings

TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One process, and the question whether it is ready."""

    process: str
    ready: Callable[[], bool]


def checks(settings: Settings, local: LocalSettings) -> list[Check]:
    """In start order; the generator has no readiness of its own."""
    return [
        Check("kafka", lambda: listens(kafka_port(settings))),
        Check("registry", lambda: answers(f"http://127.0.0.1:{local.registry_management_port}/health/ready")),
        Check("worker", lambda: answers(f"http://127.0.0.1:{settings.web_port}/api/v1/health/ready")),
        Check("flink", lambda: job_runs(settings.flink_ui_port)),
    ]


def listens(port: int) -> bool:
    """Whether a connection to 127.0.0.1 is taken. Kafka opens its port when it can serve."""
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether the URL answers 200."""
    return _get(url) is not None


def job_runs(port: int) -> bool:
    """Whether Flink's REST API lists a job in the state RUNNING."""
    body = _get(f"http://127.0.0.1:{port}/jobs")
    if body is None:
        return False
    try:
        return any(job["status"] == "RUNNING" for job in json.loads(body)["jobs"])
    except (ValueError, KeyError, TypeError):
        return False


def _get(url: str) -> bytes | None:
    # No proxy: these are our own processes on the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            body: bytes = response.read()
            return body if response.status == 200 else None
    except (OSError, urllib.error.URLError, ValueError):
        return None

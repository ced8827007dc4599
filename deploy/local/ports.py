"""Which ports the stack needs, and whether they are free: asked before anything starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from deploy.local.settings import LocalSettings, kafka_port, registry_port
from streams.domain.errors import ConfigurationError
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class PortUse:
    """One port: what for, and the setting that moves it."""

    port: int
    purpose: str
    setting: str


def needed(settings: Settings, local: LocalSettings) -> list[PortUse]:
    """Every port of the stack. Raises ConfigurationError when two uses share one."""
    uses = [
        PortUse(kafka_port(settings), "Kafka", "STREAMS_KAFKA_BOOTSTRAP_SERVERS"),
        PortUse(local.kafka_controller_port, "Kafka's controller", "STREAMS_LOCAL_KAFKA_CONTROLLER_PORT"),
        PortUse(registry_port(settings), "the schema registry", "STREAMS_REGISTRY_URL"),
        PortUse(
            local.registry_management_port, "the registry's health checks", "STREAMS_LOCAL_REGISTRY_MANAGEMENT_PORT"
        ),
        PortUse(settings.web_port, "the worker", "STREAMS_WEB_PORT"),
        PortUse(settings.flink_ui_port, "Flink's web UI", "STREAMS_FLINK_UI_PORT"),
    ]
    seen: dict[int, PortUse] = {}
    for use in uses:
        if (other := seen.setdefault(use.port, use)) is not use:
            raise ConfigurationError(
                f"port {use.port} is set for both {other.purpose} ({other.setting}) and {use.purpose} ({use.setting})"
            )
    return uses


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a stack that has just ended linger without harm.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            if exc.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def holder(port: int) -> str:
    """Who listens there, as far as we may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid
            if listens and connection.laddr and connection.laddr.port == port:
                process = psutil.Process(connection.pid)
                # Its name alone: arguments of a stranger's process may be secret.
                return f"held by process {process.pid} ({process.name()})"
    except psutil.Error:
        pass
    return "held by a process that we may not see"


def check(uses: Iterable[PortUse]) -> None:
    """Raise ConfigurationError that names every port which is taken, who holds it and which setting moves ours."""
    taken = [
        f"port {use.port} for {use.purpose} is taken, {holder(use.port)}; {use.setting} moves ours"
        for use in uses
        if not is_free(use.port)
    ]
    if taken:
        raise ConfigurationError("\n".join(taken))

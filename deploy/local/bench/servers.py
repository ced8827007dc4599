"""A Kafka broker and a schema registry for a benchmark alone: on free ports, in a temporary directory.

They are started by the code of the local stack, but the broker has its JVM's full compiler and more memory: it
must not be what is measured.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local import kafka, registry
from deploy.local.paths import JARS, RUN
from deploy.local.readiness import answers, listens

START_S: Final = 60.0
STOP_S: Final = 20.0
_TAIL_LINES: Final = 30


class ServerError(Exception):
    """A server does not start; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where they are."""

    bootstrap_servers: str
    registry_url: str


@contextmanager
def running(directory: Path) -> Iterator[Servers]:
    """Both of them; afterwards neither is left. Raises ServerError or ConfigurationError."""
    port, controller_port, registry_port, management_port = free_ports(4)
    broker = kafka.Broker(
        port=port,
        controller_port=controller_port,
        directory=directory / "kafka",
        jars=JARS / "kafka",
        heap_mb=1024,
        c2=True,
    )
    schemas = registry.Registry(
        port=registry_port,
        management_port=management_port,
        directory=directory / "registry",
        home=JARS / "registry",
        archive=RUN / "cds" / "registry.jsa",
        train=False,
    )
    health = f"http://127.0.0.1:{management_port}/health/ready"
    with (
        process(kafka.prepare(broker), directory / "kafka.log") as broker_process,
        process(registry.prepare(schemas), directory / "registry.log") as registry_process,
    ):
        _wait(broker_process, lambda: listens(port), directory / "kafka.log")
        _wait(registry_process, lambda: answers(health), directory / "registry.log")
        yield Servers(f"127.0.0.1:{port}", f"http://127.0.0.1:{registry_port}/apis/ccompat/v7")


@contextmanager
def process(
    command: Sequence[str], log: Path, *, environment: dict[str, str] | None = None, directory: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in a log; it is ended, and waited for, in any case."""
    if (setpriv := shutil.which("setpriv")) is not None:
        # The kernel ends it with us, even when we are killed.
        command = [setpriv, "--pdeathsig", "TERM", *command]
    with log.open("ab") as out:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches us alone, and we end it.
            start_new_session=True,
            env=environment,
            cwd=directory,
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)  # does nothing when it has ended
        try:
            started.wait(STOP_S)
        except BaseException as exc:
            started.kill()
            started.wait()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise


def tail(log: Path) -> str:
    """The end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    with_sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            probe = socket.socket()
            with_sockets.append(probe)
            probe.bind(("127.0.0.1", 0))
            found.append(probe.getsockname()[1])
    finally:
        for probe in with_sockets:
            with suppress(OSError):
                probe.close()
    return found


def _wait(started: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if started.poll() is not None:
            raise ServerError(f"{log.stem} ended at start; the end of its log:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"{log.stem} was not ready after {START_S:.0f} s; the end of its log:\n{tail(log)}")
        time.sleep(0.05)

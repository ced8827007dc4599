"""A real Kafka and a real schema registry for tests: their own, on free ports, in a temporary directory.

They are started by the same code as the local stack's, only when a test asks for them, and always stopped.
A test that kills or restarts one asks for `own_kafka_broker` or `own_schema_registry`, so that the shared ones stay.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from deploy.local import kafka, registry
from deploy.local.paths import JARS, RUN
from deploy.local.readiness import answers, listens

START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 20
ATTEMPTS: Final = 3
TAIL_LINES: Final = 30

_running: list[LocalServer] = []
S = TypeVar("S", bound="LocalServer")


class ServerDiedError(Exception):
    """A server ended that should not have; the message has the end of its log."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to clients: a restart finds them free too."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class LocalServer(ABC):
    """One server of a test: its process and its log."""

    name: str
    environment: dict[str, str] | None = None
    """Its environment variables; None: ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.archive = RUN / "cds" / f"{self.name}.jsa"
        """The class archive of the local stack. Where there is none yet, we make it, aside: JVMs that write one
        file at the same time would spoil it."""
        self.own_archive = directory / f"{self.name}.jsa"
        self.train = not self.archive.exists()
        self.log = directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.expected = False
        """Whether it should be running; False after stop() and kill()."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line, with everything that it needs written."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether clients can use it."""

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def died(self) -> bool:
        """Whether it ended by itself."""
        return self.expected and self._process is not None and self._process.poll() is not None

    def tail(self) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def start(self) -> None:
        """Start it, and wait until it is ready. Raises ServerDiedError with the end of its log."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it, ready or not."""
        command = self.command()
        if (setpriv := shutil.which("setpriv")) is not None:
            # The kernel ends it with us, even when we are killed and no fixture can.
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C ends the tests first, and then this by its fixture.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.environment,
            )
        self.expected = True
        _running.append(self)

    def wait(self) -> None:
        """Wait until it is ready. Raises ServerDiedError with the end of its log."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            if self.died or time.monotonic() > deadline:
                what = "ended at start" if self.died else f"was not ready after {START_TIMEOUT_S} s"
                self.kill()
                raise ServerDiedError(f"{self.name} {what}; the end of its log:\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order; fine when it has ended."""
        self._end(signal.SIGTERM)
        if self.own_archive.exists() and not self.archive.exists():
            self.archive.parent.mkdir(parents=True, exist_ok=True)
            partial = self.archive.with_suffix(f".{self.pid}")
            shutil.move(self.own_archive, partial)
            partial.rename(self.archive)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it in order if it runs, and start it on the same ports and data."""
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        self.expected = False
        if self in _running:
            _running.remove(self)
        process = self._process
        if process is None:
            return
        process.send_signal(number)  # does nothing when it has ended
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class KafkaBroker(LocalServer):
    """One Kafka broker."""

    name = "kafka"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        port, controller_port = free_ports(2)
        self._broker = kafka.Broker(
            port=port,
            controller_port=controller_port,
            directory=directory / "kafka",
            jars=JARS / "kafka",
            archive=self.own_archive if self.train else self.archive,
            train=self.train,
        )

    @property
    def bootstrap_servers(self) -> str:
        """Its address, host:port."""
        return f"127.0.0.1:{self._broker.port}"

    @property
    def ports(self) -> set[int]:
        """Every port that it listens on."""
        return {self._broker.port, self._broker.controller_port}

    def command(self) -> list[str]:
        return kafka.prepare(self._broker)

    def is_ready(self) -> bool:
        return listens(self._broker.port)


class SchemaRegistry(LocalServer):
    """One schema registry."""

    name = "registry"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        port, management_port = free_ports(2)
        self._registry = registry.Registry(
            port=port,
            management_port=management_port,
            directory=directory / "registry",
            home=JARS / "registry",
            archive=self.own_archive if self.train else self.archive,
            train=self.train,
        )

    @property
    def url(self) -> str:
        """The base URL of its Confluent API."""
        return f"http://127.0.0.1:{self._registry.port}/apis/ccompat/v7"

    @property
    def ports(self) -> set[int]:
        """Every port that it listens on."""
        return {self._registry.port, self._registry.management_port}

    def command(self) -> list[str]:
        return registry.prepare(self._registry)

    def is_ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self._registry.management_port}/health/ready")


@contextmanager
def running(kind: type[S]) -> Iterator[S]:
    """A server that runs, in a directory of its own; afterwards neither is left."""
    with tempfile.TemporaryDirectory(prefix="streams-test-") as directory:
        server = _started(kind, Path(directory))
        try:
            yield server
        finally:
            server.stop()


def _started(kind: type[S], directory: Path) -> S:
    """Start one; somebody may take a free port before it does, so try with others then."""
    for attempt in range(ATTEMPTS):
        server = kind(directory / str(attempt))
        server.directory.mkdir()
        try:
            server.start()
        except ServerDiedError:
            if attempt + 1 == ATTEMPTS or "in use" not in server.tail():
                raise
        except BaseException:  # Ctrl-C while it starts
            server.kill()
            raise
        else:
            return server
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """A Kafka broker that all tests share."""
    with running(KafkaBroker) as server:
        yield server


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[SchemaRegistry]:
    """A schema registry that all tests share."""
    with running(SchemaRegistry) as server:
        yield server


@pytest.fixture
def own_kafka_broker() -> Iterator[KafkaBroker]:
    """A Kafka broker for this test alone, which may kill it."""
    with running(KafkaBroker) as server:
        yield server


@pytest.fixture
def own_schema_registry() -> Iterator[SchemaRegistry]:
    """A schema registry for this test alone, which may kill it."""
    with running(SchemaRegistry) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed because its server died says so."""
    report = yield
    if report.failed:
        for server in _running:
            if server.died:
                report.sections.append((f"{server.name} has died; the end of its log", server.tail()))
    return report

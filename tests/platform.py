"""A real worker for tests, as a process of its own: `faust -A streams worker` on free ports."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from deploy.local.java import java_home
from deploy.local.paths import JARS, VENV_FLINK
from deploy.local.readiness import answers, job_runs
from streams.kafka.consumer import Record, open_reader
from streams.settings import ENV_PREFIX, Settings
from tests.stack import LocalServer, free_ports
from web.security.auth import make_token

BIN = Path(sys.executable).parent


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a process with these settings and none of the caller's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return inherited | {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in settings.items()}


class Worker(LocalServer):
    """A worker process."""

    name = "worker"

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory)
        self.secret = secrets.token_hex(32)
        [self.port] = free_ports(1)
        self.environment = environment(
            {
                "app_id": f"test-{secrets.token_hex(4)}",
                "web_port": self.port,
                "data_dir": directory / "data",
                "jwt_secret": self.secret,
                **settings,
            }
        )
        self.settings = Settings.model_validate(
            {
                name.removeprefix(ENV_PREFIX).lower(): value
                for name, value in self.environment.items()
                if name.startswith(ENV_PREFIX)
            }
        )

    def command(self) -> list[str]:
        return [str(BIN / "faust"), "-A", "streams", "--loop", "uvloop", "worker"]

    def is_ready(self) -> bool:
        return answers(f"{self.url}/api/v1/health/ready")

    @property
    def url(self) -> str:
        """Where its web server is."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, *scopes: str) -> str:
        """A token that it takes."""
        return make_token(self.settings, self.secret.encode(), list(scopes or ("*",)), 3600, "test", time.time())

    @asynccontextmanager
    async def client(self, *scopes: str) -> AsyncIterator[aiohttp.ClientSession]:
        """An HTTP client with such a token."""
        headers = {"Authorization": f"Bearer {self.token(*scopes)}"}
        async with aiohttp.ClientSession(self.url, headers=headers) as session:
            yield session


class FlinkJob(LocalServer):
    """The Flink job: its JVM is a child of the process."""

    name = "flink"

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory)
        [self.port] = free_ports(1)
        self.environment = environment(
            {
                "flink_ui_port": self.port,
                "flink_dir": directory / "flink",
                "flink_jars_dir": JARS / "flink",
                "flink_checkpoint_interval_s": 2,
                **settings,
            }
        ) | {"JAVA_HOME": str(java_home())}

    def command(self) -> list[str]:
        return [str(VENV_FLINK / "bin" / "python"), "-m", "flink.job"]

    def is_ready(self) -> bool:
        return job_runs(self.port)


@contextmanager
def running_worker(**settings: object) -> Iterator[Worker]:
    """A worker that is ready; afterwards it is gone."""
    with TemporaryDirectory(prefix="streams-test-") as directory:
        worker = Worker(Path(directory), **settings)
        try:
            worker.start()
            yield worker
        finally:
            worker.stop()


@contextmanager
def two_workers(directory: Path, **settings: object) -> Iterator[tuple[Worker, Worker]]:
    """Two workers of one app, which take each other's tokens."""
    secret, app_id = secrets.token_hex(32), f"test-{secrets.token_hex(4)}"
    workers = []
    try:
        for name in ("a", "b"):
            (directory / name).mkdir()
            [port] = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            worker = Worker(directory / name, jwt_secret=secret, app_id=app_id, web_port=port, web_url=url, **settings)
            worker.port = port
            worker.secret = secret
            worker.launch()
            workers.append(worker)
        for worker in workers:
            worker.wait()
        yield workers[0], workers[1]
    finally:
        for worker in workers:
            worker.stop()


async def read_topic(settings: Settings, topic: str) -> list[Record]:
    """Every committed record of a topic."""
    async with open_reader(settings, "test") as reader:
        spans = await reader.spans(await reader.partitions([topic]))
        return [record async for records in reader.read(spans) for record in records]


async def eventually(check: Any, within_s: float = 30.0) -> Any:
    """What an async check returns once it is true. Fails after so many seconds with what it returned last."""
    deadline = time.monotonic() + within_s
    while not (found := await check()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {found!r}"
        await asyncio.sleep(0.1)
    return found

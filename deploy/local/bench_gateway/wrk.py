"""wrk, an HTTP load generator in C: it must not be what is measured."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.apt import install_missing
from deploy.local.bench.processes import SubjectError
from deploy.local.bench_gateway import requests
from deploy.local.bench_gateway.cases import Posts

_SCRIPT: Final = Path(__file__).with_name("requests.lua")
_ENDING: Final = "RESULT "
_GRACE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk has seen."""

    requests: int
    wall_s: float
    p50_ms: float
    p99_ms: float


def require() -> None:
    """Install wrk from the system's packages where it is missing. Raises SetupError."""
    if shutil.which("wrk") is None:
        install_missing(["wrk"], ["wrk, which make bench sends requests with"])


class Wrk:
    """Sends the requests of a case to a port."""

    def __init__(self, posts: Posts, port: int, token: str, directory: Path) -> None:
        path = f"/api/v1/events/{requests.TOPIC}{posts.path}"
        line = requests.template(time.time_ns() // 1_000_000)
        # Lines have no end behind the last one.
        length = posts.events * (len(line) + 1) - 1
        self._posts = posts
        self._url = f"http://127.0.0.1:{port}{path}"
        self._head, self._line = directory / f"head-{port}", directory / f"event-{port}"
        self._head.write_bytes(requests.head(path, token, posts.content_type, length, port))
        self._line.write_bytes(line)

    async def run(self, seconds: int) -> Answered:
        """Send for so many seconds, as fast as it is answered. Raises SubjectError where an answer is no 2xx."""
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{self._posts.connections}", f"-d{seconds}s", "--timeout", "15s"),
            *("-s", str(_SCRIPT), self._url, "--"),
            *(str(self._head), str(self._line), str(self._posts.events), secrets.token_hex(4)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(seconds + _GRACE_S):
                out = (await process.communicate())[0].decode(errors="replace")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = next((line for line in out.splitlines() if line.startswith(_ENDING)), None)
        if found is None:
            raise SubjectError(f"wrk failed:\n{out}")
        return _answered(json.loads(found.removeprefix(_ENDING)))


def _answered(found: dict[str, int]) -> Answered:
    if found["refused"] or found["broken"]:
        raise SubjectError(
            f"of {found['requests']:,} requests, {found['refused']:,} were refused and {found['broken']:,} broke off:"
            " what was measured is not the case"
        )
    return Answered(found["requests"], found["wall_us"] / 1e6, found["p50_us"] / 1e3, found["p99_us"] / 1e3)

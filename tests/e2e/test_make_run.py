"""What `make run` does once everything is set up: all of it starts, works, and is gone after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local.paths import JARS, ROOT
from deploy.local.readiness import answers
from tests.platform import environment
from tests.stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

START_S = 180
STOP_S = 120


def test_the_whole_platform_starts_in_one_command_and_ends_with_ctrl_c(tmp_path: Path):
    """The five processes on ports of their own; a reader of the output that goes away does not matter either."""
    web, kafka, controller, registry, management, flink = free_ports(6)
    run_dir = tmp_path / "run"
    settings = {
        "web_port": web,
        "kafka_bootstrap_servers": f"127.0.0.1:{kafka}",
        "registry_url": f"http://127.0.0.1:{registry}/apis/ccompat/v7",
        "flink_ui_port": flink,
        "flink_jars_dir": JARS / "flink",
        "local_run_dir": run_dir,
        "local_jars_dir": JARS,
        "local_kafka_controller_port": controller,
        "local_registry_management_port": management,
        "local_generator_rate": 20,
        "local_generator_history": "2m",
    }
    temporary = left_in_tmp()
    out = tmp_path / "out"
    with out.open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "up"],
            cwd=ROOT,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for("Ctrl-C stops everything.", out, up)
        wait_for_windows(web, run_dir)
        listening = {c.laddr.ip for p in ours(run_dir) for c in p.net_connections("tcp") if c.status == "LISTEN"}
        # ::ffff: is how a JVM's socket tells of an IPv4 address.
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        token = (run_dir / "secrets" / "dev-token").read_text().strip()
        assert not [p for p in psutil.process_iter(["cmdline"]) if token in " ".join(p.info["cmdline"] or ())]
        os.kill(up.pid, signal.SIGINT)
        assert up.wait(STOP_S) == 0
    finally:
        up.kill()
        for process in ours(run_dir):
            process.kill()
    said = out.read_text()
    places = [said.index(f"stopping {name}") for name in ("generator", "flink", "worker", "registry", "kafka")]
    assert places == sorted(places), said
    assert "no process is left" in said
    assert ours(run_dir) == []
    assert left_in_tmp() == temporary
    assert not answers(f"http://127.0.0.1:{web}/api/v1/health/live")


def wait_for(text: str, out: Path, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while text not in out.read_text():
        assert up.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)


def wait_for_windows(port: int, run_dir: Path) -> None:
    """Every kind of the generator's events has a closed window, as a client sees it."""
    name, _, value = (run_dir / "secrets" / "dev-token.header").read_text().strip().partition(": ")
    deadline = time.monotonic() + 90
    for topic in ("iot", "clickstream", "transactions"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/aggregates/{topic}", headers={name: value})
        answer: Any = {"aggregates": []}
        while not answer["aggregates"]:
            assert time.monotonic() < deadline, topic
            time.sleep(0.5)
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)


def left_in_tmp() -> set[Path]:
    """What JVMs like to leave behind."""
    return {path for kind in ("flink*", "vertx*", "kafka*", "junit*", "apicurio*") for path in Path("/tmp").glob(kind)}


def ours(run_dir: Path) -> list[psutil.Process]:
    """The processes of this run: each carries the run directory in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STREAMS_LOCAL_RUN_DIR") == str(run_dir) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found

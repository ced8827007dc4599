"""Starting, watching and stopping the local stack's processes."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.local import leftovers, ports, procfile, welcome
from deploy.local.paths import ROOT, VENV
from deploy.local.procfile import Process
from deploy.local.settings import LocalSettings
from deploy.local.supervisor import Files, NotRunningError, Supervisor, render_config
from streams.domain.errors import ConfigurationError
from streams.settings import Settings
from tests.stack import free_ports

# the Procfile


def test_the_procfile_has_the_processes_in_the_order_of_their_needs():
    names = [process.name for process in procfile.parse((ROOT / "Procfile").read_text())]
    assert names == ["kafka", "registry", "worker", "flink", "generator"]


def test_the_procfile_and_the_settings_have_the_same_defaults():
    text = (ROOT / "Procfile").read_text()
    defaults = dict(re.findall(r"\$\{STREAMS_LOCAL_GENERATOR_(\w+):-([^}]+)\}", text))
    local = LocalSettings.model_construct()
    assert defaults == {"RATE": f"{local.generator_rate:g}", "HISTORY": local.generator_history}


def test_comments_and_empty_lines_are_no_processes():
    assert procfile.parse("# two\n\na: one --x\nb-2:two\n") == [Process("a", "one --x"), Process("b-2", "two")]


@pytest.mark.parametrize(
    ("text", "message"), [("a: x\noops\n", "line 2"), ("a: x\na: y", "'a' is there twice"), ("# none", "no process")]
)
def test_a_procfile_that_is_none_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        procfile.parse(text)


# supervisord's configuration


def parsed(processes: list[Process], tmp_path: Path, user: str | None = None) -> configparser.ConfigParser:
    config = configparser.ConfigParser(inline_comment_prefixes=(" ;",))
    config.read_string(render_config(processes, Files(tmp_path), stop_timeout_s=7, user=user))
    return config


def test_what_starts_first_stops_last(tmp_path):
    config = parsed([Process("kafka", "k"), Process("worker", "w")], tmp_path)
    assert int(config["program:kafka"]["priority"]) < int(config["program:worker"]["priority"])


def test_a_command_reaches_the_shell_as_it_was_written(tmp_path):
    command = """sh -c 'echo "100% of ${HOME:-x}"' --name="it's" """.strip()
    config = parsed([Process("one", command)], tmp_path)
    assert shlex.split(config["program:one"]["command"]) == ["/bin/sh", "-c", f"exec {command}"]


def test_a_command_that_supervisord_would_cut_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="one"):
        render_config([Process("one", "a ; b")], Files(tmp_path), stop_timeout_s=1, user=None)


def test_only_this_user_can_control_it(tmp_path):
    assert parsed([Process("one", "x")], tmp_path)["unix_http_server"]["chmod"] == "0700"


def test_a_deep_checkout_gets_a_socket_whose_name_is_short_enough(tmp_path):
    deep = tmp_path / ("d" * 120)
    assert len(str(Files(deep).socket)) < 100
    assert Files(deep).socket != Files(tmp_path / ("e" * 120)).socket


# a real supervisord


@pytest.fixture
def supervisor(tmp_path, request):
    files = Files(tmp_path / "run")
    files.logs.mkdir(parents=True)
    files.socket.parent.mkdir(parents=True, exist_ok=True)
    files.config.write_text(render_config(request.param, files, stop_timeout_s=5, user=None))
    daemon = subprocess.Popen(
        [VENV / "bin" / "supervisord", "-n", "-c", files.config],
        env={**os.environ, **leftovers.mark(files.run_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        one = Supervisor(files)
        wait_for(lambda: one.pid() == daemon.pid)
        yield one
    finally:
        daemon.terminate()
        daemon.wait(20)
        leftovers.end(leftovers.find(files.run_dir))


def wait_for(condition, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def noting(name: str) -> Process:
    """A process that takes a moment to stop, and notes when it did."""
    script = f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), print('{name}', time.time(), flush=True), sys.exit(0))); print('up', flush=True); time.sleep(600)"
    return Process(name, shlex.join([sys.executable, "-c", script]))


@pytest.mark.parametrize("supervisor", [[noting("first"), noting("second"), noting("third")]], indirect=True)
def test_supervisord_stops_in_the_reverse_order_and_waits_for_each(supervisor):
    logs = {name: supervisor.files.log(name) for name in ("first", "second", "third")}
    wait_for(lambda: all(log.exists() and "up" in log.read_text() for log in logs.values()))
    assert [state.name for state in supervisor.states()] == ["first", "second", "third"]
    pid = supervisor.pid()
    supervisor.shutdown()
    wait_for(lambda: not leftovers.lives(pid))
    stopped = {name: float(log.read_text().split()[-1]) for name, log in logs.items()}
    assert stopped["third"] + 0.19 < stopped["second"]
    assert stopped["second"] + 0.19 < stopped["first"]
    with pytest.raises(NotRunningError):
        supervisor.states()


@pytest.mark.parametrize("supervisor", [[Process("broken", "sh -c 'echo what is wrong; exit 3'")]], indirect=True)
def test_a_process_that_cannot_start_is_given_up(supervisor):
    wait_for(lambda: supervisor.states()[0].dead)
    assert supervisor.states()[0].state == "FATAL"
    assert supervisor.states()[0].log.read_text().count("what is wrong") == 3  # the first try and two more


@pytest.mark.parametrize(
    "supervisor", [[Process("parent", "sh -c 'setsid sleep 300 & exec sleep 300'")]], indirect=True
)
def test_a_child_that_left_its_group_is_found_and_ended(supervisor):
    wait_for(lambda: len(leftovers.find(supervisor.files.run_dir)) == 3)  # supervisord, the parent, the child
    supervisor.stop("parent")
    supervisor.stop("parent")  # once more is fine
    pid = supervisor.pid()
    supervisor.shutdown()
    wait_for(lambda: not leftovers.lives(pid))
    left = leftovers.find(supervisor.files.run_dir)
    assert [process.name() for process in left] == ["sleep"]
    leftovers.end(left)
    assert leftovers.find(supervisor.files.run_dir) == []


# ports


def test_a_taken_port_is_named_with_its_holder_and_its_setting():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            ports.check([ports.PortUse(port, "the worker", "STREAMS_WEB_PORT")])
    text = str(caught.value)
    assert f"port {port} for the worker is taken" in text
    assert f"process {psutil.Process().pid} " in text
    assert "STREAMS_WEB_PORT moves ours" in text


def test_free_ports_pass():
    ports.check([ports.PortUse(port, "anything", "X") for port in free_ports(3)])


def test_every_port_is_asked_for_and_can_be_moved():
    local = LocalSettings(kafka_controller_port=2, registry_management_port=4)
    settings = Settings(
        kafka_bootstrap_servers="127.0.0.1:1",
        registry_url="http://127.0.0.1:3/apis/ccompat/v7",
        web_port=5,
        flink_ui_port=6,
    )
    assert [use.port for use in ports.needed(settings, local)] == [1, 2, 3, 4, 5, 6]


def test_two_uses_of_one_port_are_refused():
    with pytest.raises(ConfigurationError, match="STREAMS_LOCAL_KAFKA_CONTROLLER_PORT"):
        ports.needed(Settings(web_port=9093), LocalSettings())


# the welcome


def test_a_secret_is_never_readable_by_others(tmp_path):
    path = tmp_path / "token"
    path.write_text("old, and readable by all")
    path.chmod(0o644)
    welcome.write_secret(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "new"


def test_the_addresses_are_those_of_the_settings():
    addresses = dict(welcome.urls(Settings(web_port=16_066)))
    assert addresses["docs"] == "http://127.0.0.1:16066/docs"
    assert addresses["metrics"] == "http://127.0.0.1:16066/metrics"
    assert addresses["tables"] == "http://127.0.0.1:16066/api/v1/tables"
    # With a port of their own, they are nowhere else.
    assert dict(welcome.urls(Settings(metrics_port=16_067)))["metrics"] == "http://127.0.0.1:16067/metrics"


def test_the_curl_has_a_valid_event_and_no_token():
    command = welcome.curl(Settings(web_port=16_066), Path(".run/secrets/dev-token.header"), 1_700_000_000_000)
    arguments = shlex.split(command)
    assert f"@{Path('.run/secrets/dev-token.header').resolve()}" in arguments
    assert arguments[-1] == "http://127.0.0.1:16066/api/v1/events/clickstream"
    assert json.loads(arguments[arguments.index("-d") + 1])["timestamp"] == 1_700_000_000_000
    assert "Bearer" not in command


# being told to end


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_stopping_is_harmless_when_nobody_reads_what_we_print(number):
    """`make run 2>&1 | tee log`: Ctrl-C ends tee too, and what comes after must still stop everything."""
    script = (
        "import signal, threading; from deploy.local.interruption import Stop;"
        f"stop = Stop(threading.Event(), stopping=True); stop.handle(signal.{number}, None);"
        "raise SystemExit(7 if stop.event.is_set() else 1)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=writer, stderr=writer, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 7

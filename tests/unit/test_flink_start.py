"""How the Flink job starts: its configuration, its checkpoint, its JVM, and what it waits for."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from flink import java, waiting
from flink.checkpoints import checkpoints_dir, latest_checkpoint
from flink.configuration import flink_configuration
from streams.domain.errors import ConfigurationError, RegistryAccessError
from streams.domain.retry import RetryPolicy
from streams.settings import ENV_PREFIX, Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def checkpoint(directory: Path, run: str, number: int, at: int, metadata: str | None = "state") -> Path:
    path = directory / run / f"chk-{number}"
    path.mkdir(parents=True)
    if metadata is not None:
        (path / "_metadata").write_text(metadata)
        os.utime(path / "_metadata", (at, at))
    return path


def test_without_a_complete_checkpoint_the_job_starts_afresh(tmp_path):
    assert latest_checkpoint(tmp_path / "absent") is None
    checkpoint(tmp_path, "run", 4, 100, metadata=None)
    checkpoint(tmp_path, "run", 5, 100, metadata="")
    (tmp_path / "run" / "shared").mkdir()
    assert latest_checkpoint(tmp_path) is None


def test_the_newest_complete_checkpoint_of_any_run_is_taken(tmp_path):
    checkpoint(tmp_path, "old", 40, at=100)
    newest = checkpoint(tmp_path, "new", 3, at=200)
    checkpoint(tmp_path, "new", 4, at=300, metadata=None)
    assert latest_checkpoint(tmp_path) == newest


def test_between_equal_times_the_number_decides_as_a_number(tmp_path):
    checkpoint(tmp_path, "run", 9, at=100)
    ten = checkpoint(tmp_path, "run", 10, at=100)
    assert latest_checkpoint(tmp_path) == ten


def test_the_restore_path_is_set_only_where_there_is_one(tmp_path):
    fresh = flink_configuration(Settings(), None)
    assert not any("recovery" in name for name in fresh)
    restored = flink_configuration(Settings(), tmp_path)
    assert restored["execution.state-recovery.path"] == tmp_path.resolve().as_uri()
    assert restored["execution.state-recovery.claim-mode"] == "CLAIM"


def test_everything_listens_on_the_loopback_interface_only():
    configuration = flink_configuration(Settings(flink_ui_port=8099), None)
    hosts = [name for name in configuration if name.endswith(("bind-host", "address", "taskmanager.host"))]
    assert {configuration[name] for name in hosts} == {"127.0.0.1"}
    for name in ("rest.bind-address", "jobmanager.bind-host", "taskmanager.bind-host"):
        assert name in hosts
    assert (configuration["rest.port"], configuration["rest.bind-port"]) == ("8099", "8099")
    assert configuration["web.submit.enable"] == "false"
    assert configuration["web.cancel.enable"] == "false"


def test_checkpoints_are_exactly_once_retained_and_where_the_settings_say(tmp_path):
    settings = Settings(flink_dir=tmp_path, flink_checkpoint_interval_s=2.5)
    configuration = flink_configuration(settings, None)
    assert configuration["execution.checkpointing.mode"] == "EXACTLY_ONCE"
    assert configuration["execution.checkpointing.interval"] == "2500 ms"
    assert configuration["execution.checkpointing.dir"] == checkpoints_dir(tmp_path).as_uri()
    assert configuration["execution.checkpointing.externalized-checkpoint-retention"] == "RETAIN_ON_CANCELLATION"


def test_restarts_are_bounded():
    configuration = flink_configuration(Settings(), None)
    assert configuration["restart-strategy.type"] == "exponential-delay"
    assert 0 < int(configuration["restart-strategy.exponential-delay.attempts-before-reset-backoff"]) < 20


def test_java_home_must_name_a_runtime(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch()
    assert java.java_home({"JAVA_HOME": str(tmp_path)}) == tmp_path
    for environ in ({}, {"JAVA_HOME": ""}, {"JAVA_HOME": str(tmp_path / "bin")}):
        with pytest.raises(ConfigurationError, match="JAVA_HOME"):
            java.java_home(environ)


def test_missing_connectors_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"flink-sql-connector-kafka.*flink-sql-avro-confluent"):
        java.classpath(tmp_path, tmp_path)
    (tmp_path / "flink-sql-connector-kafka-1.jar").touch()
    with pytest.raises(ConfigurationError, match=r"has no flink-sql-avro-confluent-registry-\*\.jar;"):
        java.classpath(tmp_path, tmp_path)
    (tmp_path / "flink-sql-avro-confluent-registry-1.jar").touch()
    assert [path.name for path in java.classpath(tmp_path, tmp_path)] == [
        "flink-sql-connector-kafka-1.jar",
        "flink-sql-avro-confluent-registry-1.jar",
    ]


def test_the_jvm_gets_its_memory_and_compiler_from_the_settings_and_no_secret():
    settings = Settings(flink_heap_mb=777, flink_compiler="c2", kafka_sasl_password=SecretStr("hush"))
    line = java.command(settings, Path("/java"), [Path("/a.jar"), Path("/b.jar")])
    assert line[0] == "/java/bin/java"
    assert "-Xmx777m" in line
    assert f"-Djava.io.tmpdir={settings.flink_dir.resolve()}/tmp" in line
    assert "-XX:TieredStopAtLevel=1" not in line
    assert line[-3:] == ["-cp", "/a.jar:/b.jar", java.GATEWAY]
    assert not any("hush" in part for part in line)
    assert "-XX:TieredStopAtLevel=1" in java.command(Settings(), Path("/java"), [])


class Script:
    """Answers, one after the other, and a clock that only sleeping moves."""

    def __init__(self, *lacks: str | None) -> None:
        self.lacks = list(lacks)
        self.now = 0.0
        self.said: list[tuple[float, str]] = []

    def wait(self, policy: RetryPolicy) -> None:
        waiting.wait_until_there(
            lambda: self.lacks.pop(0),
            policy,
            lambda lack: self.said.append((self.now, lack)),
            clock=lambda: self.now,
            sleep=self.sleep,
            uniform=lambda: 0.999,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_what_is_waited_for_is_said_when_it_changes_and_now_and_then():
    script = Script("Kafka", "Kafka", "topics", *["topics"] * 40, None)
    script.wait(RetryPolicy(1, 1))
    assert [lack for _, lack in script.said] == ["Kafka", "topics", "topics"]
    assert script.said[2][0] - script.said[1][0] >= waiting.SAY_AGAIN_S
    assert script.lacks == []


def test_waiting_backs_off_and_ends_with_the_deadline():
    script = Script(*["Kafka"] * 100)
    with pytest.raises(TimeoutError, match="Kafka"):
        script.wait(RetryPolicy(0.5, 4, deadline_s=10))
    assert 5 < script.now < 10
    assert len(script.lacks) > 90


def test_the_topics_that_are_missing_are_named():
    assert waiting.topics_lack({"platform.aggregates", "platform.late", "events.iot", "other"}) is None
    assert waiting.topics_lack({"platform.late", "events.iot"}) == "the Kafka topics platform.aggregates"
    assert waiting.topics_lack({"platform.aggregates", "platform.late"}) == "the Kafka topics events.* (any)"
    assert "platform.late" in str(waiting.topics_lack(set()))


def test_one_broker_that_listens_is_enough():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        up, down = (f"127.0.0.1:{one.getsockname()[1]}" for one in (listener, closed))
        assert waiting.broker_lacks(Settings(kafka_bootstrap_servers=f"{down},{up}")) is None
        lack = waiting.broker_lacks(Settings(kafka_bootstrap_servers=down))
        assert lack is not None
        assert down in lack


@pytest.fixture
def registry():
    """A registry that answers with the status in `status`, to whoever has the password."""

    class Server(http.server.HTTPServer):
        status = 200

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") == "Basic cmVhZGVyOmh1c2g="  # reader:hush
            self.send_response(server.status if known and self.path == "/v7/subjects" else 401)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def registry_settings(server, password="hush") -> Settings:
    return Settings(
        registry_url=f"http://127.0.0.1:{server.server_port}/v7",
        registry_username="reader",
        registry_password=SecretStr(password),
    )


def test_a_registry_that_answers_is_there_and_one_that_is_starting_is_not(registry):
    assert waiting.registry_lacks(registry_settings(registry)) is None
    registry.status = 503
    assert "status 503" in str(waiting.registry_lacks(registry_settings(registry)))


def test_a_registry_that_refuses_us_is_not_waited_for(registry):
    with pytest.raises(RegistryAccessError, match="STREAMS_REGISTRY_PASSWORD") as refused:
        waiting.registry_lacks(registry_settings(registry, "wrong"))
    assert "wrong" not in str(refused.value)


def test_a_registry_that_does_not_listen_is_waited_for():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v7"
        assert url in str(waiting.registry_lacks(Settings(registry_url=url)))


def test_a_ca_file_that_is_none_is_a_wrong_setting(tmp_path):
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="STREAMS_REGISTRY_SSL_CA_FILE"):
        waiting.registry_lacks(Settings(registry_url="https://127.0.0.1:1/v7", registry_ssl_ca_file=bad))

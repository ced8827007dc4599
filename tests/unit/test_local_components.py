"""What the local stack tells Kafka, the registry and their JVMs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local import kafka, registry
from deploy.local.java import Jvm
from deploy.local.settings import LocalSettings, kafka_port, load_local_settings, registry_port
from streams.domain.errors import ConfigurationError
from streams.settings import Settings


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def broker(tmp_path: Path) -> kafka.Broker:
    return kafka.Broker(port=19_092, controller_port=19_093, directory=tmp_path / "kafka", jars=tmp_path / "jars")


@pytest.fixture
def schema_registry(tmp_path: Path) -> registry.Registry:
    return registry.Registry(
        port=18_081, management_port=18_083, directory=tmp_path / "registry", home=tmp_path / "home"
    )


def test_every_kafka_listener_is_on_the_loopback_interface(broker):
    config = properties(kafka.render_config(broker))
    hosts = {part.split("//")[1].rpartition(":")[0] for part in config["listeners"].split(",")}
    assert hosts == {"127.0.0.1"}
    assert config["advertised.listeners"] == "PLAINTEXT://127.0.0.1:19092"


def test_kafka_makes_no_topic_by_itself_and_needs_no_second_broker(broker):
    config = properties(kafka.render_config(broker))
    assert config["auto.create.topics.enable"] == "false"
    replication = {name: value for name, value in config.items() if name.endswith(("replication.factor", "min.isr"))}
    assert len(replication) == 6
    assert set(replication.values()) == {"1"}


def test_a_cluster_id_is_one_that_kafka_takes():
    ids = {kafka.cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(one) == 22 and not one.startswith("-") for one in ids)


def test_kafka_without_jars_says_what_mends_it(broker):
    with pytest.raises(ConfigurationError, match="make setup"):
        kafka.prepare(broker)


def test_the_registry_and_its_health_checks_are_on_the_loopback_interface(schema_registry):
    config = properties(registry.render_config(schema_registry))
    assert config["quarkus.http.host"] == config["quarkus.management.host"] == "127.0.0.1"


def test_the_registry_is_backward_compatible_and_durable_from_its_first_request_on(schema_registry):
    config = properties(registry.render_config(schema_registry))
    assert config["apicurio.rules.global.compatibility"] == "BACKWARD"
    assert config["apicurio.datasource.url"].startswith(f"jdbc:h2:file:{schema_registry.directory}/")


def test_the_registry_that_was_not_unpacked_says_what_mends_it(schema_registry):
    with pytest.raises(ConfigurationError, match="make setup"):
        registry.prepare(schema_registry)


def test_benchmarks_can_have_the_optimising_compiler():
    assert "-XX:TieredStopAtLevel=1" in Jvm(128).command("-version")
    assert "-XX:TieredStopAtLevel=1" not in Jvm(128, c2=True).command("-version")


def test_a_class_archive_is_read_when_it_is_there_and_written_only_in_training(tmp_path: Path):
    archive = tmp_path / "classes.jsa"
    reading = Jvm(128, archive=archive, train=False)
    assert not any("SharedArchiveFile" in flag for flag in reading.command())
    archive.touch()
    assert f"-XX:SharedArchiveFile={archive}" in reading.command()
    assert "-XX:+AutoCreateSharedArchive" not in reading.command()
    assert "-XX:+AutoCreateSharedArchive" in replace(reading, train=True).command()


def test_moving_a_port_is_moving_the_one_setting():
    settings = Settings(
        kafka_bootstrap_servers="127.0.0.1:29092", registry_url="http://127.0.0.1:28081/apis/ccompat/v7"
    )
    assert (kafka_port(settings), registry_port(settings)) == (29_092, 28_081)


@pytest.mark.parametrize("servers", ["broker.example:9092", "127.0.0.1:9092,127.0.0.1:9094"])
def test_the_local_stack_refuses_a_kafka_that_it_cannot_be(servers):
    with pytest.raises(ConfigurationError, match="STREAMS_KAFKA_BOOTSTRAP_SERVERS"):
        kafka_port(Settings(kafka_bootstrap_servers=servers))


@pytest.mark.parametrize(
    "url",
    ["http://registry.example:8081/apis/ccompat/v7", "http://127.0.0.1:8081", "https://127.0.0.1/apis/ccompat/v7"],
)
def test_the_local_stack_refuses_a_registry_that_it_cannot_be(url):
    with pytest.raises(ConfigurationError, match="STREAMS_REGISTRY_URL"):
        registry_port(Settings(registry_url=url))


def test_a_wrong_setting_is_named_with_what_it_takes(monkeypatch):
    monkeypatch.setenv("STREAMS_LOCAL_KAFKA_HEAP_MB", "large")
    monkeypatch.setenv("STREAMS_LOCAL_GENERATOR_HISTORY", "yesterday")
    with pytest.raises(ConfigurationError) as caught:
        load_local_settings()
    text = str(caught.value)
    assert "STREAMS_LOCAL_KAFKA_HEAP_MB: 'large'" in text
    assert "128 or more" in text
    assert "STREAMS_LOCAL_GENERATOR_HISTORY: 'yesterday'" in text


def test_every_local_setting_says_what_it_takes():
    assert all(field.description for field in LocalSettings.model_fields.values())

"""Settings: a wrong one stops the start with its variable's name and what it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.settings import ENV_PREFIX as LOCAL_PREFIX
from deploy.local.settings import LocalSettings
from streams.domain.errors import ConfigurationError
from streams.registry import SchemaRegistry
from streams.settings import ENV_PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_local_stack():
    settings = load_settings()
    assert settings.kafka_bootstrap_servers == "127.0.0.1:9092"
    assert (settings.web_host, settings.web_port) == ("127.0.0.1", 6066)
    assert settings.event_topics == ("iot", "clickstream", "transactions")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_PARTITIONS", "abc"),
        ("KAFKA_PARTITIONS", "0"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("REGISTRY_URL", "http://user:password@registry"),
        ("WEB_PORT", "70000"),
        ("EVENT_TOPICS", "Iot"),
        ("REQUEST_DEADLINE_S", "0"),
        ("LOG_LEVEL", "loud"),
        ("APP_ID", "Über"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:99999"),
        ("EVENT_TOPICS", ""),
        ("EVENT_TOPICS", "iot,iot"),
        ("RETRY_CAP_S", "inf"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_takes(monkeypatch, name, value):
    monkeypatch.setenv(ENV_PREFIX + name, value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert f"{ENV_PREFIX}{name}" in str(refused.value)
    assert str(Settings.model_fields[name.lower()].description) in str(refused.value)


def test_every_wrong_setting_is_named_at_once(monkeypatch):
    monkeypatch.setenv("STREAMS_WEB_PORT", "x")
    monkeypatch.setenv("STREAMS_KAFKA_LINGER_MS", "-1")
    with pytest.raises(ConfigurationError, match=re.compile("KAFKA_LINGER_MS.*WEB_PORT", re.DOTALL)):
        load_settings()


@pytest.mark.parametrize(
    "environment",
    [
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        {"KAFKA_SSL_CERT_FILE": "cert.pem"},
        {"KAFKA_MIN_INSYNC_REPLICAS": "2"},
        {"REGISTRY_USERNAME": "someone"},
        {"RETRY_BASE_S": "10"},
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(ENV_PREFIX + name, value)
    with pytest.raises(ConfigurationError, match=ENV_PREFIX):
        load_settings()


def test_a_refused_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("STREAMS_JWT_SECRET", "too-short-to-show")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "STREAMS_JWT_SECRET" in str(refused.value)
    assert "too-short-to-show" not in str(refused.value)


def test_a_password_in_a_refused_url_is_not_shown(monkeypatch):
    monkeypatch.setenv("STREAMS_REGISTRY_URL", "http://someone:hunter2@registry/")
    with pytest.raises(ConfigurationError, match="STREAMS_REGISTRY_URL") as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_a_directory_of_secrets_that_is_none_stops_the_start(monkeypatch, tmp_path, kind):
    place = tmp_path / kind
    if kind == "file":
        place.write_text("")
    monkeypatch.setenv("STREAMS_SECRETS_DIR", str(place))
    with pytest.raises(ConfigurationError, match="STREAMS_SECRETS_DIR"):
        load_settings()


def test_a_ca_file_that_cannot_be_read_is_named(monkeypatch):
    monkeypatch.setenv("STREAMS_REGISTRY_URL", "https://registry")
    monkeypatch.setenv("STREAMS_REGISTRY_SSL_CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="STREAMS_REGISTRY_SSL_CA_FILE"):
        SchemaRegistry(load_settings())


def test_secrets_come_from_files_too(monkeypatch, tmp_path):
    (tmp_path / "streams_registry_password").write_text("from a file")
    monkeypatch.setenv("STREAMS_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("STREAMS_REGISTRY_USERNAME", "someone")
    settings = load_settings()
    assert settings.registry_password is not None
    assert settings.registry_password.get_secret_value() == "from a file"
    assert "from a file" not in repr(settings)


def test_every_setting_says_what_it_takes_and_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text()
    for prefix, model in ((ENV_PREFIX, Settings), (LOCAL_PREFIX, LocalSettings)):
        for name, field in model.model_fields.items():
            assert field.description, name
            assert f"| `{prefix}{name.upper()}` |" in page, name
            assert field.description in page, name


def test_the_worker_says_what_is_wrong_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-c", "import streams; streams.app"],
        env={**os.environ, "STREAMS_WEB_PORT": "x", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "STREAMS_WEB_PORT" in done.stderr
    assert "Traceback" not in done.stderr

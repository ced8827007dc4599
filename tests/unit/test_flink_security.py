"""How the Flink job logs in to Kafka and the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from flink.pipeline import build
from flink.runtime import revealed, root_cause
from flink.security import SCRAM_LOGIN_MODULE, Options, kafka_properties, registry_options
from streams.domain.errors import ConfigurationError
from streams.settings import Settings

SCRAM = Settings(
    kafka_security_protocol="SASL_SSL",
    kafka_sasl_username="job",
    kafka_sasl_password=SecretStr('pa"ss\\word'),
    kafka_ssl_ca_file=Path("/tls/ca.pem"),
    registry_url="https://registry/v7",
    registry_username="reader",
    registry_password=SecretStr("hush"),
    registry_ssl_ca_file=Path("/tls/registry-ca.pem"),
)


def test_without_security_there_is_the_address_alone():
    assert kafka_properties(Settings(kafka_bootstrap_servers="a:1,b:2")) == {"bootstrap.servers": "a:1,b:2"}
    assert registry_options(Settings(registry_url="http://r/v7")) == {"url": "http://r/v7"}


def test_scram_over_tls():
    properties = revealed(kafka_properties(SCRAM))
    properties.pop("bootstrap.servers")
    assert properties == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{SCRAM_LOGIN_MODULE} required username="job" password="pa\\"ss\\\\word";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": "/tls/ca.pem",
    }


def test_mutual_tls_takes_certificate_and_key_from_two_files():
    settings = Settings(
        kafka_security_protocol="SSL",
        kafka_ssl_cert_file=Path("/tls/cert.pem"),
        kafka_ssl_key_file=Path("/tls/key.pem"),
    )
    properties = kafka_properties(settings, read=lambda path: f"text of {path.name}")
    assert properties["ssl.keystore.type"] == "PEM"
    assert properties["ssl.keystore.certificate.chain"] == "text of cert.pem"
    assert properties["ssl.keystore.key"] == SecretStr("text of key.pem")
    # No CA file: the runtime's own list of CAs.
    assert "ssl.truststore.location" not in properties
    assert "sasl.mechanism" not in properties


def test_a_key_that_cannot_be_read_is_a_wrong_setting(tmp_path):
    missing = tmp_path / "key.pem"
    settings = Settings(kafka_security_protocol="SSL", kafka_ssl_cert_file=missing, kafka_ssl_key_file=missing)
    with pytest.raises(ConfigurationError, match=str(missing)):
        kafka_properties(settings)


def test_the_registry_with_basic_authentication_and_a_ca_of_its_own():
    assert revealed(registry_options(SCRAM)) == {
        "url": "https://registry/v7",
        "basic-auth.credentials-source": "USER_INFO",
        "basic-auth.user-info": "reader:hush",
        "ssl.truststore.location": "/tls/registry-ca.pem",
        "properties.schema.registry.ssl.truststore.type": "PEM",
    }


def test_every_table_logs_in_and_shows_no_secret():
    pipeline = build(SCRAM)
    for table in pipeline.tables:
        assert table.options["properties.security.protocol"] == "SASL_SSL"
        assert table.options["value.avro-confluent.basic-auth.user-info"] == SecretStr("reader:hush")
        assert "hush" in table.ddl()
        assert 'password="pa' in table.ddl()
        for shown in (str(table), repr(table)):
            assert "hush" not in shown
            assert 'password="pa' not in shown
    assert not any("hush" in statement for statement in (*pipeline.views, *pipeline.inserts))


def test_a_root_cause_is_one_line_without_secrets():
    trace = """An error occurred while calling o1.x.
: org.apache.flink.table.api.ValidationException: Unable to create a sink
\tat org.apache.flink.Foo(Foo.java:1)
Caused by: java.lang.IllegalStateException: in the middle
\tat org.apache.flink.Foo(Foo.java:1)
Caused by: java.net.ConnectException: login as reader:hush refused
\t... 12 more"""
    secrets: Options = {"a": SecretStr("reader:hush"), "b": "refused"}
    assert root_cause(trace, secrets) == "java.net.ConnectException: login as ********** refused"
    assert root_cause("calling\n: java.lang.Error: alone\n\tat x", {}) == "java.lang.Error: alone"
    assert root_cause("plain", {}) == "plain"
    assert root_cause("", {}) == "unknown"

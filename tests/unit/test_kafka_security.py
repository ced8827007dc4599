"""One set of settings, the same security for every client library."""

from __future__ import annotations

import ssl
from pathlib import Path

import faust
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from streams.domain.errors import (
    ConfigurationError,
    KafkaAccessError,
    KafkaUnavailableError,
    RecordRejectedError,
    UnknownTopicError,
)
from streams.faust_app import create_app
from streams.kafka.errors import translate, translated
from streams.kafka.security import aiokafka_options, confluent_options, ssl_context
from streams.settings import Settings

SCRAM = {
    "kafka_bootstrap_servers": "one:9093,two:9093",
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_username": "worker",
    "kafka_sasl_password": "hunter2",
}


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """The certificates that this system trusts, as a file."""
    context = ssl.create_default_context()
    file = tmp_path / "ca.pem"
    file.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)[:1]))
    return file


def test_plaintext_needs_nothing():
    settings = Settings()
    assert ssl_context(settings) is None
    assert aiokafka_options(settings)["security_protocol"] == "PLAINTEXT"
    assert confluent_options(settings) == {"bootstrap.servers": "127.0.0.1:9092", "security.protocol": "PLAINTEXT"}
    assert create_app(settings).conf.broker_credentials is None


def test_scram_is_the_same_for_every_client():
    settings = Settings.model_validate(SCRAM)
    ours, librdkafka = aiokafka_options(settings), confluent_options(settings)
    assert ours["bootstrap_servers"] == librdkafka["bootstrap.servers"] == "one:9093,two:9093"
    assert ours["security_protocol"] == librdkafka["security.protocol"] == "SASL_SSL"
    assert ours["sasl_mechanism"] == librdkafka["sasl.mechanism"] == "SCRAM-SHA-512"
    assert ours["sasl_plain_username"] == librdkafka["sasl.username"] == "worker"
    assert ours["sasl_plain_password"] == librdkafka["sasl.password"] == "hunter2"
    assert isinstance(ours["ssl_context"], ssl.SSLContext)


def test_faust_gets_the_same_credentials_and_every_broker():
    app = create_app(Settings.model_validate(SCRAM))
    credentials = app.conf.broker_credentials
    assert isinstance(credentials, faust.SASLCredentials)
    assert (credentials.username, credentials.password) == ("worker", "hunter2")
    assert str(credentials.mechanism.value) == "SCRAM-SHA-512"
    assert [url.host for url in app.conf.broker] == ["one", "two"]


def test_tls_alone_has_a_context_that_verifies(ca_file):
    settings = Settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=ca_file)
    context = aiokafka_options(settings)["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert confluent_options(settings)["ssl.ca.location"] == str(ca_file)
    assert isinstance(create_app(settings).conf.broker_credentials, faust.SSLCredentials)


def test_a_file_that_cannot_be_used_is_a_wrong_setting():
    with pytest.raises(ConfigurationError, match="STREAMS_KAFKA_SSL_CA_FILE"):
        ssl_context(Settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=Path("/nowhere/ca.pem")))


@pytest.mark.parametrize(
    ("vendor", "ours", "retriable"),
    [
        (KafkaConnectionError("refused"), KafkaUnavailableError, True),
        (TimeoutError(), KafkaUnavailableError, True),
        (ConnectionRefusedError(111, "refused"), KafkaUnavailableError, True),
        (SaslAuthenticationFailed("no"), KafkaAccessError, False),
        (TopicAuthorizationFailedError("t"), KafkaAccessError, False),
        (MessageSizeTooLargeError("large"), RecordRejectedError, False),
        (UnknownTopicOrPartitionError("t"), UnknownTopicError, False),
    ],
)
def test_errors_of_the_client_become_ours_and_keep_their_cause(vendor, ours, retriable):
    assert isinstance(translate(vendor, "write"), ours)
    with pytest.raises(ours, match="write") as raised, translated("write"):
        raise vendor
    assert raised.value.retriable is retriable
    assert raised.value.__cause__ is vendor

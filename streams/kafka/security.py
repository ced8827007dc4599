"""How clients reach Kafka: plaintext, TLS, or TLS with SCRAM, from one set of settings for each client library."""

from __future__ import annotations

import ssl
from typing import Any

from streams.domain.errors import ConfigurationError
from streams.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context, None for plaintext. Raises ConfigurationError for a file that cannot be used."""
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
        if settings.kafka_ssl_cert_file is not None:
            context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file)
    except OSError as exc:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"STREAMS_KAFKA_SSL_CA_FILE, STREAMS_KAFKA_SSL_CERT_FILE or STREAMS_KAFKA_SSL_KEY_FILE cannot be used: {exc}"
        ) from exc
    return context


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for every aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.kafka_security_protocol == "SASL_SSL":
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": _password(settings),
        }
    return options


def confluent_options(settings: Settings) -> dict[str, Any]:
    """The same for confluent-kafka (librdkafka's names)."""
    options: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
    }
    files = {
        "ssl.ca.location": settings.kafka_ssl_ca_file,
        "ssl.certificate.location": settings.kafka_ssl_cert_file,
        "ssl.key.location": settings.kafka_ssl_key_file,
    }
    options |= {name: str(path) for name, path in files.items() if path is not None}
    if settings.kafka_security_protocol == "SASL_SSL":
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": _password(settings),
        }
    return options


def _password(settings: Settings) -> str:
    if settings.kafka_sasl_password is None:  # the settings forbid it with SASL_SSL
        raise ConfigurationError("STREAMS_KAFKA_SASL_PASSWORD is required with SASL_SSL")
    return settings.kafka_sasl_password.get_secret_value()

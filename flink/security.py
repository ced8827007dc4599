"""How the job's clients log in: the settings, in the words of the Kafka client and of Flink's avro-confluent format.

Secrets stay `SecretStr` until the statement that needs them is handed to Flink.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from streams.domain.errors import ConfigurationError
from streams.settings import Settings

Options = dict[str, str | SecretStr]

# The connector's jar carries its Kafka client under another name.
SCRAM_LOGIN_MODULE: Final = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security.scram.ScramLoginModule"


def kafka_properties(settings: Settings, read: Callable[[Path], str] = Path.read_text) -> Options:
    """Bootstrap servers and security, as Kafka's Java client names them (Kafka's manual, "Security").

    PEM stores as in KIP-651. Raises ConfigurationError for a client certificate or key that cannot be read.
    """
    properties: Options = {"bootstrap.servers": settings.kafka_bootstrap_servers}
    if settings.kafka_security_protocol == "PLAINTEXT":
        return properties
    properties["security.protocol"] = settings.kafka_security_protocol
    if settings.kafka_ssl_ca_file is not None:
        properties["ssl.truststore.type"] = "PEM"
        properties["ssl.truststore.location"] = str(settings.kafka_ssl_ca_file.resolve())
    if settings.kafka_ssl_cert_file is not None and settings.kafka_ssl_key_file is not None:
        # Kafka takes a file only for certificate and key in one; ours are two.
        properties["ssl.keystore.type"] = "PEM"
        properties["ssl.keystore.certificate.chain"] = _pem(settings.kafka_ssl_cert_file, read)
        properties["ssl.keystore.key"] = SecretStr(_pem(settings.kafka_ssl_key_file, read))
    if settings.kafka_security_protocol == "SASL_SSL":
        password = settings.kafka_sasl_password
        assert password is not None  # the settings insist
        properties["sasl.mechanism"] = settings.kafka_sasl_mechanism
        properties["sasl.jaas.config"] = SecretStr(
            f"{SCRAM_LOGIN_MODULE} required username={_jaas(settings.kafka_sasl_username or '')}"
            f" password={_jaas(password.get_secret_value())};"
        )
    return properties


def registry_options(settings: Settings) -> Options:
    """The registry's address and security, as Flink's avro-confluent format names them, without its prefix."""
    options: Options = {"url": settings.registry_url}
    if settings.registry_username is not None and settings.registry_password is not None:
        options["basic-auth.credentials-source"] = "USER_INFO"
        options["basic-auth.user-info"] = SecretStr(
            f"{settings.registry_username}:{settings.registry_password.get_secret_value()}"
        )
    if settings.registry_ssl_ca_file is not None:
        options["ssl.truststore.location"] = str(settings.registry_ssl_ca_file.resolve())
        # The format has no option for the type, but passes properties on to the registry's client.
        options["properties.schema.registry.ssl.truststore.type"] = "PEM"
    return options


def _pem(path: Path, read: Callable[[Path], str]) -> str:
    try:
        return read(path)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read ({exc.strerror})") from exc


def _jaas(value: str) -> str:
    """A quoted value of a JAAS configuration."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

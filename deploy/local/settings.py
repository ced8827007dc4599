"""Settings of the local stack that no other component reads: environment variables `STREAMS_LOCAL_*`.

Ports that components share come from `streams.settings`: moving a port is moving the one setting.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.domain.errors import ConfigurationError
from streams.settings import Port, Settings

ENV_PREFIX: Final = "STREAMS_LOCAL_"
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost"})


class LocalSettings(BaseSettings):
    """All settings of the local stack; each field's description says what it takes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    run_dir: Path = Field(Path(".run"), description="a directory for data, logs and secrets of the local stack")
    jars_dir: Path = Field(Path(".run/jars"), description="the directory that make setup fills with jars")
    kafka_controller_port: Port = Field(9093, description="port of Kafka's KRaft controller: 1 to 65535")
    kafka_heap_mb: int = Field(192, ge=128, description="JVM heap of Kafka in MiB: 128 or more")
    registry_management_port: Port = Field(8083, description="port of the registry's health checks: 1 to 65535")
    registry_heap_mb: int = Field(128, ge=96, description="JVM heap of the registry in MiB: 96 or more")
    c2: bool = Field(
        default=False,
        description="true leaves the optimising compiler on: slower to start and larger, faster in benchmarks",
    )
    class_archives: bool = Field(
        default=True, description="true keeps archives of loaded Java classes under run_dir, for a faster next start"
    )
    generator_rate: float = Field(50.0, gt=0, description="events a second that the generator sends: more than 0")
    generator_history: str = Field(
        "3m", pattern=r"^\d+[smh]$", description="how far back the generator's event time starts, such as 90s or 6m"
    )
    stop_timeout_s: int = Field(20, ge=1, description="seconds that a process has to stop before it is killed")


def load_local_settings() -> LocalSettings:
    """The settings of this process.

    Raises ConfigurationError, which names each wrong variable, what it was and what it takes.
    """
    try:
        return LocalSettings()
    except ValidationError as exc:
        lines = []
        for error in exc.errors(include_url=False, include_context=False):
            name = str(error["loc"][0])
            takes = LocalSettings.model_fields[name].description
            lines.append(f"{ENV_PREFIX}{name.upper()}: {error['input']!r}: {error['msg']}; it takes: {takes}")
        raise ConfigurationError("\n".join(lines)) from exc


def keep_together(local: LocalSettings) -> None:
    """Put the data of every component below the run directory, unless a setting of its own says otherwise.

    A new Kafka must not meet the checkpoints and tables of another one.
    """
    places = {
        "STREAMS_DATA_DIR": local.run_dir / "worker",
        "STREAMS_FLINK_DIR": local.run_dir / "flink",
        "STREAMS_JWT_SECRET_FILE": local.run_dir / "secrets" / "jwt-hs256.key",
    }
    for name, place in places.items():
        os.environ.setdefault(name, str(place))


def kafka_port(settings: Settings) -> int:
    """The local broker's port. Raises ConfigurationError when the setting names a broker that is not local."""
    servers = settings.kafka_bootstrap_servers.split(",")
    host, _, port = servers[0].rpartition(":")
    if len(servers) != 1 or host not in LOOPBACK:
        raise ConfigurationError(
            f"STREAMS_KAFKA_BOOTSTRAP_SERVERS: {settings.kafka_bootstrap_servers!r}: "
            "the local stack runs one broker, so it takes: 127.0.0.1:PORT"
        )
    return int(port)


def registry_port(settings: Settings) -> int:
    """The local registry's port. Raises ConfigurationError when the setting names a registry that is not local."""
    url = urlsplit(settings.registry_url)
    if url.scheme != "http" or url.hostname not in LOOPBACK or url.path.rstrip("/") != "/apis/ccompat/v7":
        raise ConfigurationError(
            f"STREAMS_REGISTRY_URL: {settings.registry_url!r}: the local stack takes: http://127.0.0.1:PORT/apis/ccompat/v7"
        )
    return url.port or 80

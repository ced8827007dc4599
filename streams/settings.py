"""The platform's settings: environment variables `STREAMS_*` become one frozen object at start.

Every component reads the same variables: worker, commands, Flink job and the local stack.
Secrets may also come from files: a directory named by `STREAMS_SECRETS_DIR` holds one file for
each variable, named as the variable in lower case (as Kubernetes and ECS mount them).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streams.domain.errors import ConfigurationError
from streams.domain.retry import RetryPolicy

ENV_PREFIX: Final = "STREAMS_"

TopicName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,127}$")]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
JwksUrl = Annotated[
    str, StringConstraints(pattern=r"^(https://[^\s/@]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?)(/\S*)?$")
]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[a-z0-9.\[\]:-]+)$")]
JwtAlgorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
HostPorts = Annotated[str, StringConstraints(pattern=r"^[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*$")]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Settings(BaseSettings):
    """All settings; each field's description says what it takes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    app_id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$")] = Field(
        "streams", description="name of the Faust app and its consumer group: lower case letters, digits, dashes"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="one of DEBUG, INFO, WARNING, ERROR"
    )
    data_dir: Path = Field(Path(".run/worker"), description="a directory for the worker's local state")

    shutdown_deadline_s: float = Field(
        15.0, gt=0, le=600, description="seconds that a worker has to stop in order before it just ends: up to 600"
    )

    # Kafka
    kafka_bootstrap_servers: HostPorts = Field(
        "127.0.0.1:9092", description="brokers as host:port, separated by commas"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL"] = Field(
        "PLAINTEXT", description="one of PLAINTEXT, SSL, SASL_SSL"
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="one of SCRAM-SHA-256, SCRAM-SHA-512"
    )
    kafka_sasl_username: str | None = Field(None, description="user name, required with SASL_SSL")
    kafka_sasl_password: SecretStr | None = Field(None, description="password, required with SASL_SSL")
    kafka_ssl_ca_file: Path | None = Field(None, description="PEM file of the CAs to trust; the system's when unset")
    kafka_ssl_cert_file: Path | None = Field(None, description="PEM file of the client certificate, for mutual TLS")
    kafka_ssl_key_file: Path | None = Field(None, description="PEM file of the client key, for mutual TLS")
    kafka_replication_factor: int = Field(1, ge=1, description="replicas of each topic that we create: 1 or more")
    kafka_min_insync_replicas: int = Field(1, ge=1, description="replicas that must have a record before it is acked")
    kafka_partitions: int = Field(4, ge=1, le=10_000, description="partitions of each topic that we create: 1 or more")
    kafka_linger_ms: int = Field(2, ge=0, le=1_000, description="how long a producer batch waits for more: 0 to 1000")

    # Schema registry (Confluent API)
    registry_url: HttpUrl = Field(
        "http://127.0.0.1:8081/apis/ccompat/v7",
        description="base URL of the registry's Confluent API, without user name or password",
    )
    registry_username: str | None = Field(None, description="user name for basic authentication")
    registry_password: SecretStr | None = Field(None, description="password for basic authentication")
    registry_ssl_ca_file: Path | None = Field(None, description="PEM file of the CAs to trust; the system's when unset")

    # Web
    web_host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    web_port: Port = Field(6066, description="port to listen on: 1 to 65535")
    web_url: HttpUrl | None = Field(
        None, description="base URL by which other workers reach this one; http://<web_host>:<web_port> when unset"
    )
    request_deadline_s: float = Field(5.0, gt=0, le=300, description="seconds until a request is given up: up to 300")
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body in bytes: 1024 or more")
    read_concurrency: int = Field(
        4, ge=1, le=64, description="questions to the log of events that are answered at the same time: 1 to 64"
    )
    max_batch_bytes: int = Field(8_388_608, ge=1_024, description="largest body of a batch in bytes: 1024 or more")
    max_batch_events: int = Field(10_000, ge=1, le=50_000, description="events of a batch at most: 1 to 50000")
    max_compression_ratio: int = Field(
        100, ge=1, description="how many times as large a body beyond 64 KiB may become when it is inflated: 1 or more"
    )
    max_in_flight_events: int = Field(50_000, ge=1, description="events sent but not acknowledged: 1 or more")
    max_in_flight_bytes: int = Field(
        67_108_864, ge=2_097_152, description="bytes sent but not acknowledged: 2097152 or more"
    )
    max_body_bytes_in_flight: int = Field(
        134_217_728, ge=1_048_576, description="bytes of request bodies being read at once: 1048576 or more"
    )
    subject_requests_per_s: float = Field(
        20_000.0, ge=0, le=1e9, description="requests a second that each subject may send on and on; 0 is without limit"
    )
    subject_events_per_s: float = Field(
        100_000.0, ge=0, le=1e9, description="events a second that each subject may send on and on; 0 is without limit"
    )
    subject_burst_events: int = Field(
        200_000, ge=1, description="events that a subject may send at once after a rest: 1 or more"
    )
    max_connections: int = Field(10_000, ge=1, description="connections to the web server at once: 1 or more")
    header_timeout_s: float = Field(
        10.0, gt=0, le=300, description="seconds that a client has to send a request's headers: up to 300"
    )
    keepalive_timeout_s: float = Field(
        75.0, gt=0, le=3_600, description="seconds that a connection may wait for its next request: up to 3600"
    )
    metrics_port: Port | None = Field(
        None, description="second port, with /metrics and health alone; when unset, /metrics is on web_port"
    )
    metrics_host: str | None = Field(None, description="address of the second port; web_host when unset")
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (),
        description="origins whose pages may call the API, separated by commas, such as https://app.example.com; or *",
    )

    # Live streams
    stream_max_clients: int = Field(1_000, ge=1, description="live streams that a worker serves at once: 1 or more")
    stream_queue_events: int = Field(
        1_000, ge=4, description="newest events of a watched topic kept for its clients: 4 or more"
    )
    stream_queue_bytes: int = Field(8_388_608, ge=65_536, description="bytes of these events at most: 65536 or more")
    stream_catch_up_readers: int = Field(
        4, ge=1, le=64, description="readers for clients that are farther behind, all topics together: 1 to 64"
    )

    # Tokens
    jwt_algorithms: Annotated[tuple[JwtAlgorithm, ...], NoDecode] = Field(
        ("HS256",), description="how tokens may be signed: HS256, RS256, ES256, EdDSA, separated by commas"
    )
    jwt_jwks_file: Path | None = Field(None, description="file with the public keys of RS256, ES256, EdDSA as a JWKS")
    jwt_jwks_url: JwksUrl | None = Field(
        None, description="https URL of the JWKS in place of a file; http for 127.0.0.1 and localhost alone"
    )
    jwt_jwks_ttl_s: float = Field(
        300.0, ge=1, le=86_400, description="seconds after which the keys of the URL are fetched again: 1 to 86400"
    )
    jwt_secret: SecretStr | None = Field(
        None, description="HS256 key of 32 bytes or more; when unset, jwt_secret_file is used"
    )
    jwt_secret_file: Path = Field(
        Path(".run/secrets/jwt-hs256.key"),
        description="file with the HS256 key, mode 0600; made with a random key when it is missing",
    )
    jwt_issuer: str = Field("event-streams", min_length=1, description="the iss claim that tokens must have")
    jwt_audience: str = Field("event-streams", min_length=1, description="the aud claim that tokens must have")

    # Events
    event_topics: Annotated[tuple[TopicName, ...], NoDecode] = Field(
        ("iot", "clickstream", "transactions"),
        description="event topics to create at start, separated by commas, without the prefix events.",
    )
    event_retention_hours: int = Field(168, ge=1, description="how long events are kept: hours, 1 or more")
    event_max_future_s: int = Field(3_600, ge=0, description="how far an event's time may be ahead of ours: seconds")
    aggregate_retention_hours: int = Field(24, ge=1, description="how long closed windows are served: hours, 1 or more")

    topic_creation: Literal["admin-only", "auto"] = Field(
        "admin-only", description="whether a first event creates its topic: admin-only or auto"
    )
    max_topics: int = Field(
        1_000, ge=1, description="event topics from which on a first event creates no other: 1 or more"
    )
    schema_max_age_s: float = Field(
        30.0, gt=0, le=3_600, description="seconds after which a topic's schema is looked up again, in the background"
    )
    idempotency_window_s: float = Field(
        3_600.0, gt=0, description="how long a worker remembers the receipts of posted events by their ids: seconds"
    )
    idempotency_max_ids: int = Field(
        100_000, ge=1_000, description="receipts that a worker remembers at most: 1000 or more"
    )
    deduplicate_ingress: bool = Field(
        default=False, description="whether ingest drops events whose id it has stored lately: true or false"
    )
    deduplicate_window_s: int = Field(3_600, ge=1, description="how long an event id is known at least: seconds")
    deduplicate_max_ids: int = Field(
        200_000, ge=1_000, description="event ids known of each partition of platform.ingress at most: 1000 or more"
    )

    # Agents and tables
    agent_linger_ms: int = Field(
        100, ge=0, le=10_000, description="how long an agent's transaction waits for more records: 0 to 10000"
    )
    agent_max_bytes: int = Field(
        67_108_864,
        ge=1_048_576,
        description="bytes fetched but not yet worked on, by all agents together: 1048576 or more",
    )
    agent_stall_s: float = Field(
        60.0, gt=0, description="seconds without progress after which a partition that lags makes the worker not ready"
    )
    table_store: Literal["memory", "rocksdb"] = Field(
        "memory", description="where tables are held: memory, or rocksdb for more than fits, below the data directory"
    )

    # Metrics
    lag_interval_s: float = Field(
        15.0, gt=0, le=3_600, description="seconds between two looks at the lag of consumer groups: up to 3600"
    )

    # Retries
    retry_base_s: float = Field(0.1, gt=0, le=3_600, description="longest first delay between attempts: seconds")
    retry_cap_s: float = Field(5.0, gt=0, le=3_600, description="longest delay between attempts: seconds")

    # Dead letters
    dlq_max_replays: int = Field(5, ge=1, description="how often a record may be redriven: 1 or more")
    dlq_redrive_rate: float = Field(
        500.0, gt=0, le=1_000_000, description="records a second that a redrive writes unless it is told otherwise"
    )

    # Flink job
    flink_ui_port: Port = Field(8082, description="port of Flink's web UI and REST API: 1 to 65535")
    flink_dir: Path = Field(Path(".run/flink"), description="a directory for checkpoints and logs")
    flink_jars_dir: Path = Field(Path(".run/jars/flink"), description="the directory with the connector jars")
    flink_parallelism: int = Field(2, ge=1, description="parallel tasks of each operator: 1 or more")
    flink_checkpoint_interval_s: float = Field(5.0, gt=0, le=3_600, description="seconds between checkpoints")
    flink_heap_mb: int = Field(640, ge=256, description="JVM heap in MiB: 256 or more")
    flink_compiler: Literal["c1", "c2"] = Field(
        "c1", description="JVM compiler: c1 starts in half the time, c2 is faster after minutes of full load"
    )
    flink_out_of_orderness_s: int = Field(10, ge=0, description="how far event time may run backwards: seconds")
    flink_allowed_lateness_s: int = Field(
        60, ge=0, description="how long after its end a window may still be changed by late events: seconds"
    )
    flink_idle_timeout_s: int = Field(60, ge=1, description="seconds after which a silent partition is left out")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _ports(cls, value: str) -> str:
        for server in value.split(","):
            if not 1 <= int(server.rpartition(":")[2]) <= 65_535:
                raise ValueError(f"{server} has no port from 1 to 65535")
        return value

    @field_validator("event_topics")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("one topic or more, each once")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _explicit(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("* is every origin: it stands alone")
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _some_algorithm(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("one algorithm or more, each once")
        return value

    @field_validator("event_topics", "jwt_algorithms", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name for name in (part.strip() for part in value.split(",")) if name)
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < 32:
            # RFC 7518, section 3.2: a key of the hash's size or larger.
            raise ValueError("the key is shorter than 32 bytes")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kafka_security_protocol == "SASL_SSL" and not (self.kafka_sasl_username and self.kafka_sasl_password):
            raise ValueError("STREAMS_KAFKA_SASL_USERNAME and STREAMS_KAFKA_SASL_PASSWORD are required with SASL_SSL")
        if (self.kafka_ssl_cert_file is None) != (self.kafka_ssl_key_file is None):
            raise ValueError("STREAMS_KAFKA_SSL_CERT_FILE and STREAMS_KAFKA_SSL_KEY_FILE belong together")
        if self.kafka_min_insync_replicas > self.kafka_replication_factor:
            raise ValueError("STREAMS_KAFKA_MIN_INSYNC_REPLICAS must be at most STREAMS_KAFKA_REPLICATION_FACTOR")
        if (self.registry_username is None) != (self.registry_password is None):
            raise ValueError("STREAMS_REGISTRY_USERNAME and STREAMS_REGISTRY_PASSWORD belong together")
        if self.jwt_jwks_file is not None and self.jwt_jwks_url is not None:
            raise ValueError("one of STREAMS_JWT_JWKS_FILE and STREAMS_JWT_JWKS_URL, not both")
        by_key_set = any(algorithm != "HS256" for algorithm in self.jwt_algorithms)
        if by_key_set != (self.jwt_jwks_file is not None or self.jwt_jwks_url is not None):
            raise ValueError(
                "STREAMS_JWT_JWKS_FILE or STREAMS_JWT_JWKS_URL belongs to RS256, ES256 and EdDSA:"
                " set one of them with such an algorithm in STREAMS_JWT_ALGORITHMS, and none without"
            )
        if self.metrics_port is not None and self.metrics_port == self.web_port:
            raise ValueError("STREAMS_METRICS_PORT must differ from STREAMS_WEB_PORT; unset, /metrics is on the latter")
        if self.retry_base_s > self.retry_cap_s:
            raise ValueError("STREAMS_RETRY_BASE_S must be at most STREAMS_RETRY_CAP_S")
        return self

    def retry_policy(self, deadline_s: float = float("inf")) -> RetryPolicy:
        """The one retry policy, with a deadline for all attempts together."""
        return RetryPolicy(self.retry_base_s, self.retry_cap_s, deadline_s)


def load_settings() -> Settings:
    """The settings of this process.

    Raises ConfigurationError, which names each wrong variable, what it was and what it takes.
    """
    secrets = os.environ.get("STREAMS_SECRETS_DIR")
    if secrets is not None and not Path(secrets).is_dir():
        raise ConfigurationError(f"STREAMS_SECRETS_DIR: {secrets!r} is no directory; it takes: a directory of secrets")
    try:
        return Settings(_secrets_dir=secrets)
    except ValidationError as exc:
        raise ConfigurationError(_explain(exc)) from exc


def _explain(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_context=False):
        location = error["loc"]
        field = Settings.model_fields.get(str(location[0])) if location else None
        if field is None:
            lines.append(error["msg"].removeprefix("Value error, "))
            continue
        # Not what may hold a password: a secret, or a URL with a user in it.
        hidden = "Secret" in str(field.annotation) or "@" in str(error["input"])
        got = "" if hidden else f" {error['input']!r}:"
        lines.append(
            f"{ENV_PREFIX}{str(location[0]).upper()}:{got} {error['msg'].removeprefix('Value error, ')};"
            f" it takes: {field.description}"
        )
    return "\n".join(lines)

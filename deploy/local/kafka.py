"""Kafka for one machine: a single KRaft broker that listens on the loopback interface alone.

`python -m deploy.local.kafka` formats the storage when it is new and becomes the broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from deploy.local.java import Jvm
from deploy.local.settings import kafka_port, load_local_settings
from streams.domain.errors import ConfigurationError
from streams.settings import load_settings

LOG4J: Final = """\
Configuration:
  status: warn
  Appenders:
    Console:
      name: console
      target: SYSTEM_OUT
      PatternLayout: {pattern: "%d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n"}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: console}}
    Logger:
      # "Kafka Server started", and what the groups do; each start would print a thousand lines at INFO otherwise.
      - {name: kafka.server.KafkaRaftServer, level: INFO}
      - {name: org.apache.kafka.coordinator.group.GroupMetadataManager, level: INFO}
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker: its ports on 127.0.0.1, where its data is, which jars it runs on."""

    port: int
    controller_port: int
    directory: Path
    jars: Path
    heap_mb: int = 192
    c2: bool = False
    archive: Path | None = None
    train: bool = True
    """Whether a missing or stale class archive is written when the broker ends."""

    @property
    def data(self) -> Path:
        """Kafka's own storage."""
        return self.directory / "data"

    @property
    def config(self) -> Path:
        """The rendered configuration."""
        return self.directory / "server.properties"

    @property
    def log4j(self) -> Path:
        """The rendered log configuration."""
        return self.directory / "log4j2.yaml"

    def command(self, main: str, *arguments: str, train: bool = False) -> list[str]:
        """The command line for one of Kafka's main classes; `train` writes the class archive when it ends."""
        properties = {"log4j2.configurationFile": str(self.log4j)}
        jvm = Jvm(self.heap_mb, self.c2, self.archive, train, properties)
        # An absolute path, since an archive belongs to a class path as it was written.
        return jvm.command("-cp", f"{self.jars.resolve()}/*", main, *arguments)


def render_config(broker: Broker) -> str:
    """The broker's `server.properties`."""
    listeners = f"PLAINTEXT://127.0.0.1:{broker.port},CONTROLLER://127.0.0.1:{broker.controller_port}"
    values: dict[str, str | int] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{broker.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker.port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(broker.data.resolve()),
        # A topic that nobody declared is a mistake, and one made by a mistake has the wrong settings.
        "auto.create.topics.enable": "false",
        # One broker: one replica of Kafka's own topics; few partitions, since each costs files and start-up time.
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # A killed broker that comes back waits until its former self is given up: 9 seconds by default.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        # Nobody else joins a group on a laptop, so there is nothing to wait for.
        "group.initial.rebalance.delay.ms": 0,
        # The default of 128 MiB is most of a small heap.
        "log.cleaner.dedupe.buffer.size": 8_388_608,
        "num.network.threads": 2,
        "num.io.threads": 4,
        # How often open transactions of killed producers are looked for: until one is aborted, readers of
        # committed records wait behind it.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 2_000,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def cluster_id() -> str:
    """A random cluster id as Kafka writes it: 16 bytes in base64url, without padding, not starting with a dash."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


def prepare(broker: Broker) -> list[str]:
    """Write the configuration, format the storage when it is new, and return the broker's command line.

    Raises ConfigurationError when there are no jars or the storage cannot be formatted.
    """
    if not any(broker.jars.glob("kafka_*.jar")):
        raise ConfigurationError(f"{broker.jars} has no Kafka; run: make setup")
    broker.directory.mkdir(parents=True, exist_ok=True)
    broker.config.write_text(render_config(broker), encoding="utf-8")
    broker.log4j.write_text(LOG4J, encoding="utf-8")
    if not (broker.data / "meta.properties").exists():
        format_ = broker.command(
            "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id(), "--config", str(broker.config)
        )
        done = subprocess.run(format_, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigurationError(f"{broker.data}: formatting failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    if broker.archive is not None:
        broker.archive.parent.mkdir(parents=True, exist_ok=True)
    return broker.command("kafka.Kafka", str(broker.config), train=broker.train)


def main() -> NoReturn:
    """Become the broker."""
    try:
        local = load_local_settings()
        broker = Broker(
            port=kafka_port(load_settings()),
            controller_port=local.kafka_controller_port,
            directory=local.run_dir / "kafka",
            jars=local.jars_dir / "kafka",
            heap_mb=local.kafka_heap_mb,
            c2=local.c2,
            archive=local.run_dir / "cds" / "kafka.jsa" if local.class_archives else None,
        )
        command = prepare(broker)
    except ConfigurationError as exc:
        print(f"kafka: {exc}", file=sys.stderr)
        sys.exit(2)
    # exec: whoever started us signals and waits for the broker itself.
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

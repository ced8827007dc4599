"""Flink's own configuration, from our settings. Pure; names and units are Flink's (its manual, "Configuration")."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flink.checkpoints import checkpoints_dir
from flink.java import scratch
from streams.settings import Settings

LOOPBACK: Final = "127.0.0.1"

# A fault that lasts is told, not hidden: so many restarts in a row, then the job fails and the process ends.
RESTART_ATTEMPTS: Final = 8
RESTART_MAX_DELAY: Final = "10 s"
RESTART_FORGIVEN_AFTER: Final = "5 min"


def flink_configuration(settings: Settings, restore_from: Path | None) -> dict[str, str]:
    """The configuration of the mini-cluster and the job; `restore_from` is a retained checkpoint or savepoint."""
    configuration = {
        **_network(settings),
        **_memory(),
        **_checkpoints(settings),
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": RESTART_MAX_DELAY,
        "restart-strategy.exponential-delay.reset-backoff-threshold": RESTART_FORGIVEN_AFTER,
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": str(RESTART_ATTEMPTS),
        # Window bounds are in UTC, wherever the machine is.
        "table.local-time-zone": "UTC",
    }
    if restore_from is not None:
        configuration["execution.state-recovery.path"] = restore_from.resolve().as_uri()
        # The job owns what it came from, and removes it when it has checkpoints of its own.
        configuration["execution.state-recovery.claim-mode"] = "CLAIM"
    return configuration


def _network(settings: Settings) -> dict[str, str]:
    port = str(settings.flink_ui_port)
    hosts = (
        "rest.address",
        "rest.bind-address",
        "jobmanager.rpc.address",
        "jobmanager.bind-host",
        "taskmanager.host",
        "taskmanager.bind-host",
    )
    return {
        **dict.fromkeys(hosts, LOOPBACK),
        "rest.port": port,
        "rest.bind-port": port,
        # Nobody logs in to the web UI: it shows, and runs and ends nothing.
        "web.submit.enable": "false",
        "web.cancel.enable": "false",
    }


def _memory() -> dict[str, str]:
    return {
        # Filled with zeros at start, so they count in full; two tasks of each kind need 2 MiB.
        "taskmanager.memory.network.min": "16 mb",
        "taskmanager.memory.network.max": "16 mb",
        # For RocksDB and Python functions; state on the heap takes none.
        "taskmanager.memory.managed.size": "16 mb",
    }


def _checkpoints(settings: Settings) -> dict[str, str]:
    return {
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": f"{round(settings.flink_checkpoint_interval_s * 1000)} ms",
        "execution.checkpointing.timeout": "1 min",
        "execution.checkpointing.tolerable-failed-checkpoints": "3",
        "execution.checkpointing.dir": checkpoints_dir(settings.flink_dir).as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "state.backend.type": "hashmap",
        "io.tmp.dirs": str(scratch(settings)),
    }

"""The schema registry for one machine: Apicurio Registry on an H2 file, on the loopback interface alone.

`python -m deploy.local.registry` writes the configuration and becomes the registry.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deploy.local.java import Jvm
from deploy.local.settings import load_local_settings, registry_port
from streams.domain.errors import ConfigurationError
from streams.settings import load_settings


@dataclass(frozen=True, slots=True)
class Registry:
    """One registry: its ports on 127.0.0.1, where its data is, where it was unpacked."""

    port: int
    management_port: int
    directory: Path
    home: Path
    heap_mb: int = 128
    c2: bool = False
    archive: Path | None = None
    train: bool = True
    """Whether a missing or stale class archive is written when the registry ends."""

    @property
    def config(self) -> Path:
        """The rendered configuration."""
        return self.directory / "application.properties"

    @property
    def temporary(self) -> Path:
        """What the registry would otherwise leave in the system's temporary directory."""
        return self.directory / "tmp"


def render_config(registry: Registry) -> str:
    """The registry's `application.properties`."""
    values: dict[str, str | int] = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": registry.port,
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": registry.management_port,
        "quarkus.http.access-log.enabled": "false",
        "quarkus.banner.enabled": "false",
        # One line says that it is up and where; the rest only when something is wrong.
        "quarkus.log.level": "WARN",
        'quarkus.log.category."io.quarkus".level': "INFO",
        'quarkus.log.category."io.quarkus.runtime.configuration".level': "ERROR",
        'quarkus.log.category."io.quarkus.config".level': "ERROR",
        'quarkus.log.category."io.apicurio".level': "WARN",
        "quarkus.log.console.format": "%d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n",
        # Nothing of ours goes to a collector unless somebody sets one up.
        "quarkus.otel.sdk.disabled": "true",
        "apicurio.storage.kind": "sql",
        "apicurio.storage.sql.kind": "h2",
        # No ;AUTO_SERVER and no H2 console: the file is opened by this process alone. No write delay either: records
        # refer to a schema by its id, so one that was registered must be there after a crash.
        "apicurio.datasource.url": f"jdbc:h2:file:{registry.directory.resolve() / 'data' / 'registry'};WRITE_DELAY=0",
        # The default opens twenty connections before the first request.
        "apicurio.datasource.jdbc.initial-size": 1,
        "apicurio.datasource.jdbc.min-size": 1,
        "apicurio.datasource.jdbc.max-size": 8,
        # In force from the first request on, so nobody can slip in an incompatible schema before it is set.
        "apicurio.rules.global.compatibility": "BACKWARD",
        "apicurio.storage.snapshot.location": str(registry.temporary.resolve()),
        "apicurio.import.work-dir": str(registry.temporary.resolve()),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def prepare(registry: Registry) -> list[str]:
    """Write the configuration and return the registry's command line.

    Raises ConfigurationError when it was not unpacked.
    """
    start = registry.home / "quarkus-run.jar"
    if not start.exists():
        raise ConfigurationError(f"{registry.home} has no schema registry; run: make setup")
    registry.temporary.mkdir(parents=True, exist_ok=True)
    registry.config.write_text(render_config(registry), encoding="utf-8")
    if registry.archive is not None:
        registry.archive.parent.mkdir(parents=True, exist_ok=True)
    properties = {
        "quarkus.config.locations": str(registry.config.resolve()),
        "java.io.tmpdir": str(registry.temporary.resolve()),
    }
    jvm = Jvm(registry.heap_mb, registry.c2, registry.archive, registry.train, properties)
    # An absolute path, since an archive belongs to a class path as it was written.
    return jvm.command("-jar", str(start.resolve()))


def main() -> NoReturn:
    """Become the registry."""
    try:
        local = load_local_settings()
        registry = Registry(
            port=registry_port(load_settings()),
            management_port=local.registry_management_port,
            directory=local.run_dir / "registry",
            home=local.jars_dir / "registry",
            heap_mb=local.registry_heap_mb,
            c2=local.c2,
            archive=local.run_dir / "cds" / "registry.jsa" if local.class_archives else None,
        )
        command = prepare(registry)
    except ConfigurationError as exc:
        print(f"registry: {exc}", file=sys.stderr)
        sys.exit(2)
    # exec: whoever started us signals and waits for the registry itself.
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

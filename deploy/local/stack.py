"""The local stack as a whole: up, down, reset, status."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deploy.local import leftovers, ports, procfile, welcome
from deploy.local.interruption import Interrupted, Stop, StoppedElsewhere
from deploy.local.java import java_home
from deploy.local.paths import ROOT, VENV
from deploy.local.progress import Step, paint, say
from deploy.local.readiness import checks
from deploy.local.settings import LocalSettings
from deploy.local.supervisor import Files, NotRunningError, State, Supervisor, current_user, render_config
from streams.domain.errors import ConfigurationError
from streams.settings import Settings

TAIL_LINES: Final = 20
POLL_S: Final = 0.25
# Everything else below run_dir comes from make setup, or is made from what came from there.
DATA: Final = ("kafka", "registry", "worker", "flink", "secrets", "log")


class StackError(Exception):
    """The stack does not start or has failed; the message says why."""


class Stack:
    """One checkout's stack."""

    def __init__(self, settings: Settings, local: LocalSettings, procfile_path: Path) -> None:
        self.settings = settings
        self.local = local
        self.run_dir = local.run_dir
        self.procfile_path = procfile_path
        self.files = Files(local.run_dir)
        self.supervisor = Supervisor(self.files)

    # up

    def up(self, *, table: bool = True) -> int:
        """Run in the foreground until Ctrl-C, `make down`, or the end of a process that must not end."""
        stop = Stop(threading.Event())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop.handle)
        with self._only_one():
            if (pid := self.supervisor.pid()) is not None:
                raise StackError(f"the stack of this checkout runs already (process {pid}); stop it with: make down")
            self._end_leftovers("an earlier run left")
            processes = procfile.parse(self.procfile_path.read_text(encoding="utf-8"))
            ports.check(ports.needed(self.settings, self.local))
            daemon = self.start(processes)
            elsewhere = False
            try:
                self._wait_until_ready(daemon, stop, {process.name for process in processes})
                self._greet(stop)
                self._watch(daemon, stop, table=table)
            except StoppedElsewhere:
                elsewhere = True
                say("it is being stopped from elsewhere")
                return 0
            except Interrupted:
                return 0
            except StackError as exc:
                say(paint(f"up: {exc}", "red"))
                return 1
            finally:
                stop.stopping = True
                self.stop_all(daemon, quietly=elsewhere)
        return 0

    @contextmanager
    def _only_one(self, patience_s: float = 0) -> Iterator[None]:
        """Hold the lock of this checkout's stack, so that two runs never mix."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience_s
        with (self.run_dir / "up.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise StackError(
                            "the stack of this checkout is being run already; stop it with: make down"
                        ) from None
                    time.sleep(0.1)
            yield

    def start(self, processes: list[procfile.Process]) -> subprocess.Popen[bytes]:
        """Start supervisord, and with it every process. Raises StackError when it does not start."""
        for directory in (self.files.logs, self.files.socket.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = render_config(processes, self.files, stop_timeout_s=self.local.stop_timeout_s, user=current_user())
        self.files.config.write_text(config, encoding="utf-8")
        env = {
            # On a laptop an event to a new topic is an experiment, not a mistake; who sets it decides.
            "STREAMS_TOPIC_CREATION": "auto",
            **os.environ,
            **leftovers.mark(self.run_dir),
            "JAVA_HOME": str(java_home()),
            "PYTHONUNBUFFERED": "1",
            "STREAMS_LOCAL_GENERATOR_RATE": f"{self.local.generator_rate:g}",
            "STREAMS_LOCAL_GENERATOR_HISTORY": self.local.generator_history,
        }
        # A session of its own: Ctrl-C at the terminal reaches us alone, and we stop the others in order.
        command = [str(VENV / "bin" / "supervisord"), "-n", "-c", str(self.files.config.resolve())]
        with (self.files.log("supervisord-start")).open("wb") as log:
            daemon = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 15
        while self.supervisor.pid() is None:
            if daemon.poll() is not None or time.monotonic() > deadline:
                leftovers.end(leftovers.find(self.run_dir))
                raise StackError(f"supervisord did not start:\n{tail(self.files.log('supervisord-start'))}")
            time.sleep(0.05)
        return daemon

    def _wait_until_ready(self, daemon: subprocess.Popen[bytes], stop: Stop, names: set[str]) -> None:
        started = time.monotonic()
        for check in checks(self.settings, self.local):
            if check.process not in names:
                continue
            with Step(check.process):
                while not check.ready():
                    self._look(daemon, stop)
                    stop.event.wait(POLL_S)
        say(f"everything is up after {time.monotonic() - started:.0f} s; logs are in {self.files.logs}/")

    def _look(self, daemon: subprocess.Popen[bytes], stop: Stop) -> None:
        """Raise Interrupted when the stack is to end, StackError when a process of it has."""
        if stop.event.is_set():
            raise Interrupted
        try:
            states = self.supervisor.states()
        except NotRunningError:
            states = []
        if daemon.poll() is not None or any(state.state in {"STOPPING", "STOPPED"} for state in states):
            raise StoppedElsewhere
        for state in states:
            # A generator with an end is no failure; everything else is there to stay.
            if state.dead and not (state.state == "EXITED" and state.name == "generator"):
                # One that could not even be started has no log of its own.
                log = state.log if state.log.exists() else self.files.log("supervisord")
                raise StackError(f"{state.name} has failed ({state.state}); the end of {log}:\n{tail(log)}")

    def _greet(self, stop: Stop) -> None:
        header = None
        try:
            header = welcome.make_token(self.local)
        except welcome.TokenError as exc:
            if stop.event.is_set():
                raise Interrupted from exc
            say(paint(f"no development token: {exc}", "yellow"))
        say(welcome.text(self.settings, header, int(time.time() * 1000)))

    def _watch(self, daemon: subprocess.Popen[bytes], stop: Stop, *, table: bool) -> None:
        """Show the live table on a terminal; without one, and when the table fails, just stay."""
        view: subprocess.Popen[bytes] | None = None
        if table and sys.stdout.isatty():
            view = subprocess.Popen([str(VENV / "bin" / "faust"), "-A", "streams", "watch"], cwd=ROOT)
        else:
            say("Ctrl-C stops everything.")
        try:
            while True:
                self._look(daemon, stop)
                if view is not None and (code := view.poll()) is not None:
                    # It also gets the terminal's Ctrl-C, and may end before our own handler has run.
                    if code in {0, 130, -signal.SIGINT}:
                        raise Interrupted
                    say(paint(f"the live table ended with status {code}; the stack runs on", "yellow"))
                    say("Ctrl-C stops everything.")
                    view = None
                stop.event.wait(POLL_S)
        finally:
            if view is not None:
                end_view(view)

    # down

    def stop_all(self, daemon: subprocess.Popen[bytes] | None, *, quietly: bool = False) -> None:
        """Stop every process, the last started first, then supervisord; leave nothing behind.

        `quietly` leaves the order to supervisord, which keeps it also beside another who stops it.
        """
        pid = daemon.pid if daemon is not None else self.supervisor.pid()
        # Not running: it is gone, or somebody else stops it.
        with suppress(NotRunningError):
            for state in [] if quietly else reversed(self.supervisor.states()):
                with Step(f"stopping {state.name}"), suppress(NotRunningError):
                    self.supervisor.stop(state.name)
            self.supervisor.shutdown()
        # supervisord may have every process still to stop, one after the other.
        deadline = time.monotonic() + self.local.stop_timeout_s * 5
        while pid is not None and leftovers.lives(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if daemon is not None:
            daemon.poll()  # takes its exit status, or it would stay as a zombie while we live
        self._end_leftovers("still there:")
        say("stopped; no process is left")

    def _end_leftovers(self, what: str) -> None:
        found = leftovers.find(self.run_dir)
        if found:
            for process in found:
                say(paint(f"{what} process {process.pid}; ending it", "yellow"))
            leftovers.end(found)

    def down(self) -> int:
        """Stop the stack from anywhere; nothing to stop is fine."""
        if self.supervisor.pid() is None and not leftovers.find(self.run_dir):
            say("nothing runs")
            return 0
        self.stop_all(None)
        return 0

    def reset(self) -> int:
        """Stop, and remove the data: topics, schemas, tables, checkpoints, secrets, logs; not jars, not environments."""
        self.down()
        # The one that runs in the foreground elsewhere takes a moment to see that it was stopped.
        with self._only_one(patience_s=10):
            for name in DATA:
                shutil.rmtree(self.run_dir / name, ignore_errors=True)
        say(f"data removed from {self.run_dir}/")
        return 0

    # status

    def status(self) -> int:
        """Print what runs; 0 when everything does, 3 when nothing does, as services have it (LSB)."""
        try:
            states = self.supervisor.states()
        except NotRunningError:
            say("nothing runs")
            return 3
        ready = {check.process: check.ready for check in checks(self.settings, self.local)}
        for state in states:
            say(f"{state.name:10} {self._describe(state, ready.get(state.name, lambda: True)())}")
        return 0 if all(state.state == "RUNNING" for state in states) else 1

    @staticmethod
    def _describe(state: State, ready: bool) -> str:  # noqa: FBT001 - its one caller names it
        colour = "green" if state.state == "RUNNING" and ready else "yellow"
        return f"{paint(state.state, colour)}{'' if ready else ' (not ready)'}  {state.description}"


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError as exc:
        text = [str(exc)]
    return "\n".join(f"  {line}" for line in text)


def end_view(view: subprocess.Popen[bytes]) -> None:
    """Let the live table put the terminal in order, and end it."""
    try:
        view.wait(2)
    except subprocess.TimeoutExpired:
        view.terminate()
        try:
            view.wait(3)
        except subprocess.TimeoutExpired:
            view.kill()
            view.wait()


def load(settings: Settings, local: LocalSettings, procfile_path: Path | None) -> Stack:
    """The stack of this checkout. Raises ConfigurationError when there is no Procfile."""
    path = procfile_path or ROOT / "Procfile"
    if not path.exists():
        raise ConfigurationError(f"{path}: no such Procfile")
    return Stack(settings, local, path)

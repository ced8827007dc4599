"""Processes of a stack that outlived it: found by a mark in their environment, ended by their ids.

A child that made itself a session or a process group of its own keeps the mark, so it is found too.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "STREAMS_LOCAL_STACK"


def mark(run_dir: Path) -> dict[str, str]:
    """The variable that every process of the stack inherits."""
    return {MARK: str(run_dir.resolve())}


def find(run_dir: Path) -> list[psutil.Process]:
    """Every living process with this stack's mark, except ourselves and those above us."""
    wanted = str(run_dir.resolve())
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == wanted and _alive(process):
                found.append(process)
        except psutil.Error:
            continue  # it has just ended, or it is another user's
    return found


def end(processes: list[psutil.Process], grace_s: float = 5.0) -> None:
    """Ask each to end, and kill those that do not within the grace."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return _alive(psutil.Process(pid))
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

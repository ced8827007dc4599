"""The composition root: imports, by name, everything that registers itself with the app.

Not by autodiscovery, which swallows an import error and runs on without the broken agent.
"""

from __future__ import annotations

from faust.cli.worker import worker as WorkerCommand  # noqa: N812

import agents.dead_letters
import agents.ingest
import agents.state
import agents.windows
import streams.commands
import web
from streams import logs
from streams.faust_app import app

__all__ = ["agents", "app", "streams"]

# What -l says when the worker is given none: Faust would leave the root logger at DEBUG, a log record an event sent.
_LEVEL = app.platform.settings.log_level
setattr(WorkerCommand, "loglevel", property(lambda command: command._loglevel or _LEVEL))  # noqa: B010, SLF001
logs.quieten()

web.install(app)

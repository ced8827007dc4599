"""The composition root: imports, by name, everything that registers itself with the app.

Not by autodiscovery, which swallows an import error and runs on without the broken agent.
"""

from __future__ import annotations

import logging

from faust.cli.worker import worker as WorkerCommand  # noqa: N812

import agents.ingest
import agents.state
import agents.windows
import streams.commands
import web
from streams.faust_app import app

__all__ = ["agents", "app", "streams"]

# What -l says when the worker is given none: Faust would leave the root logger at DEBUG, a log record an event sent.
_LEVEL = app.platform.settings.log_level
setattr(WorkerCommand, "loglevel", property(lambda command: command._loglevel or _LEVEL))  # noqa: B010, SLF001
# A line for each call of the registry is no news, and neither is a traceback for each client that speaks no HTTP;
# what goes wrong in a handler is logged by web.errors.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

web.install(app)

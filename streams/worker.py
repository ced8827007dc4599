"""The composition root: imports, by name, everything that registers itself with the app.

Not by autodiscovery, which swallows an import error and runs on without the broken agent.
"""

from __future__ import annotations

import logging

import agents.ingest
import agents.state
import agents.windows
import streams.commands
import web
from streams.faust_app import app

__all__ = ["agents", "app", "streams"]

# Faust's worker leaves the root logger at DEBUG when it is given no -l: a log record for each event sent.
logging.getLogger().setLevel(app.platform.settings.log_level)

web.install(app)

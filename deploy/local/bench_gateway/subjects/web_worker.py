"""The gateway in a Faust worker: the product's app, platform and routes, and of its agents `ingest` alone, which idles.

The state agent would read what is posted, on the same core; and Faust does not run an app without an agent.
"""

from __future__ import annotations

import agents.ingest
import web
from streams import logs
from streams.faust_app import app

__all__ = ["agents", "app"]

logs.quieten()
web.install(app)

"""The platform's core. `streams.app` is the Faust app, made on first use: `faust -A streams worker`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from streams.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.faust_app import StreamsApp

    app: StreamsApp


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from streams.worker import app
    except ConfigurationError as exc:
        # The user's mistake, not ours: say which variable and what it takes, without a traceback.
        sys.exit(f"event-streams cannot start: a setting is wrong\n{exc}")
    return app

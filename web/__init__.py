"""HTTP and WebSocket, inside the Faust worker's own web server. `install` adds them to an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.faust_app import StreamsApp

__all__ = ["install"]


def install(app: StreamsApp) -> None:
    """Put our routes, and authentication in front of every route, into the app's web server. Connects nothing."""
    # Here, not above: `web.security.auth` serves the commands as well, and needs none of this.
    from web.installation import install_into

    install_into(app)

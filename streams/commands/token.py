"""`faust -A streams token`: a token for development, signed with the worker's own key."""

from __future__ import annotations

import sys
import time

from faust.cli import AppCommand, option

from streams.commands.running import plain_errors
from streams.faust_app import app
from streams.generators.options import parse_duration
from web.security.auth import load_or_create_secret, make_token


@app.command(
    option(
        "--scope", "scopes", multiple=True, required=True, help="what it allows, such as events:write:iot; repeatable"
    ),
    option("--ttl", default="1h", show_default=True, help="how long it is valid: such as 90s, 30m or 24h"),
    option("--subject", default="developer", show_default=True, help="whom it is for (the sub claim)"),
)
@plain_errors
async def token(self: AppCommand, scopes: tuple[str, ...], ttl: str, subject: str) -> None:
    """Print a development token (HS256) and nothing else."""
    settings = app.platform.settings
    secret = load_or_create_secret(settings)
    made = make_token(
        settings,
        secret,
        [part for scope in scopes for part in scope.split()],
        int(parse_duration(ttl, "--ttl")),
        subject,
        time.time(),
    )
    sys.stdout.write(made + "\n")

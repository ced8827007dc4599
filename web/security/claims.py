"""Where authentication leaves what a request's token says."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from web.security.auth import Claims

CLAIMS: Final = web.RequestKey("claims", Claims)

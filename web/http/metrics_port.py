"""The second port: metrics and health, apart from what clients reach."""

from __future__ import annotations

from aiohttp import web

from streams.domain.errors import ConfigurationError
from streams.settings import Settings
from web.http.server import Runner


class MetricsPort:
    """An application at `metrics_port`, in the worker's own loop."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._runner: Runner | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigurationError where the port cannot be had."""
        settings = self._settings
        host, port = settings.metrics_host or settings.web_host, settings.metrics_port
        self._runner = Runner(self._app, settings)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as exc:
            await self.close()
            raise ConfigurationError(
                f"STREAMS_METRICS_PORT: cannot listen on {host}:{port}: {exc.strerror}; name a port that is free there"
            ) from exc

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

"""`faust -A streams <command>`: each module here is one command, registered by being imported."""

from __future__ import annotations

from streams.commands import audit, dlq, generate, token, topics, watch

__all__ = ["audit", "dlq", "generate", "token", "topics", "watch"]

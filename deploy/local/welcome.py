"""What a person who has just started the stack needs: the addresses, and a first event."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

from deploy.local.paths import ROOT, VENV
from deploy.local.progress import paint
from deploy.local.settings import LocalSettings
from streams.settings import Settings


class TokenError(Exception):
    """No development token could be made; the message says why."""


def urls(settings: Settings) -> list[tuple[str, str]]:
    """Name and address of everything that can be looked at."""
    web = f"http://127.0.0.1:{settings.web_port}"
    return [
        ("docs", f"{web}/docs"),
        ("REST", f"{web}/api/v1"),
        ("health", f"{web}/api/v1/health/ready"),
        ("metrics", f"http://127.0.0.1:{settings.metrics_port or settings.web_port}/metrics"),
        ("tables", f"{web}/api/v1/tables"),
        ("Flink UI", f"http://127.0.0.1:{settings.flink_ui_port}/"),
        ("registry", settings.registry_url),
        ("Kafka", settings.kafka_bootstrap_servers),
    ]


def make_token(local: LocalSettings) -> Path:
    """Make a development token; it is kept in two files that only this user reads, and the header's is returned.

    curl takes the header from the file (`-H @FILE`), since every user of a machine can read the arguments of its
    processes. Raises TokenError.
    """
    command = [str(VENV / "bin" / "faust"), "-A", "streams", "token", "--scope", "*", "--ttl", "24h"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise TokenError(str(exc)) from exc
    token = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or token.count(".") != 2:
        raise TokenError((done.stderr or done.stdout).strip()[-500:] or f"status {done.returncode}")
    secrets = local.run_dir / "secrets"
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secret(secrets / "dev-token", f"{token}\n")
    header = secrets / "dev-token.header"
    write_secret(header, f"Authorization: Bearer {token}\n")
    return header


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def curl(settings: Settings, header: Path, now_ms: int) -> str:
    """A command that posts one event, ready to be pasted."""
    event = {"event_type": "page.view", "user_id": "me", "timestamp": now_ms, "payload": {"page": "/hello"}}
    return (
        f"curl -i -H {shlex.quote(f'@{header.resolve()}')} -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(event)}' http://127.0.0.1:{settings.web_port}/api/v1/events/clickstream"
    )


def text(settings: Settings, header: Path | None, now_ms: int) -> str:
    """The whole message."""
    lines = [f"  {name:12} {paint(address, 'cyan')}" for name, address in urls(settings)]
    if header is not None:
        lines += [
            "",
            f"REST and tables need the token, which is good for 24 hours: curl -H {shlex.quote(f'@{header.resolve()}')} URL",
            "Publish an event:",
            f"  {curl(settings, header, now_ms)}",
        ]
    return "\n".join(["", *lines, ""])

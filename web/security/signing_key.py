"""The key that development tokens are signed with: from the settings, or from a file that only we can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from streams.domain.errors import ConfigurationError
from streams.settings import Settings

MIN_KEY_BYTES: Final = 32
"""RFC 7518, section 3.2: a key for HS256 is as long as its hash, or longer."""


def load_or_create_secret(settings: Settings) -> bytes:
    """The HS256 key; a file that is missing is made, with mode 0600 and a random key.

    Processes that start together end up with the same key. Raises ConfigurationError where the file cannot be
    read or made, where others than its owner can read it, where the key is too short, or where the settings take
    no tokens that are signed with it.
    """
    if "HS256" not in settings.jwt_algorithms:
        raise ConfigurationError(
            f"STREAMS_JWT_ALGORITHMS is {','.join(settings.jwt_algorithms)}: tokens come from the issuer whose keys are"
            f" at {settings.jwt_jwks_file or settings.jwt_jwks_url}, get one there; or, for development, add HS256"
        )
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value().encode()
    path = settings.jwt_secret_file
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _create(path)
            return _read(path)
    except OSError as exc:
        raise ConfigurationError(
            f"STREAMS_JWT_SECRET_FILE: cannot use {path}: {exc.strerror}; give the key in STREAMS_JWT_SECRET,"
            " or name a file that can be read or made"
        ) from exc


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"STREAMS_JWT_SECRET_FILE: {path} has mode {mode:04o}, so that others can use the key;"
                f" run: chmod 600 {path}"
            )
        key = file.read().strip()
    if len(key) < MIN_KEY_BYTES:
        raise ConfigurationError(
            f"STREAMS_JWT_SECRET_FILE: the key in {path} is shorter than {MIN_KEY_BYTES} bytes;"
            " remove the file, and a new key is made"
        )
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: the first of several processes wins, and none ever sees half a key.
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # another process was first: its key is the key
    finally:
        draft.unlink()

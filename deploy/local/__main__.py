"""`python -m deploy.local up|down|reset|status`: what `make run` and its siblings call."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from deploy.local import stack
from deploy.local.paths import ROOT
from deploy.local.progress import paint
from deploy.local.settings import keep_together, load_local_settings
from streams.domain.errors import ConfigurationError
from streams.settings import load_settings


def main() -> int:
    """Run one command; 2 for a wrong setting, 1 for a stack that failed."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "reset", "status"])
    parser.add_argument("--procfile", type=Path, help="another Procfile than the checkout's")
    parser.add_argument("--no-table", action="store_true", help="up: no live table")
    arguments = parser.parse_args()
    # The settings' relative paths are meant from the checkout, wherever one calls from.
    os.chdir(ROOT)
    try:
        local = load_local_settings()
        keep_together(local)
        one = stack.load(load_settings(), local, arguments.procfile)
        match arguments.command:
            case "up":
                return one.up(table=not arguments.no_table)
            case "down":
                return one.down()
            case "reset":
                return one.reset()
            case _:
                return one.status()
    except (ConfigurationError, stack.StackError) as exc:
        print(paint(f"{arguments.command}: {exc}", "red", sys.stderr), file=sys.stderr)
        return 2 if isinstance(exc, ConfigurationError) else 1
    except KeyboardInterrupt:
        print(f"{arguments.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Where the job's checkpoints are, and which of them to start from."""

from __future__ import annotations

from pathlib import Path


def checkpoints_dir(flink_dir: Path) -> Path:
    """The directory of the checkpoints of all runs: a directory a run, in it one a checkpoint."""
    return (flink_dir / "checkpoints").resolve()


def latest_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of any run below the directory, or None where there is none.

    A checkpoint is complete when it has its `_metadata`, which Flink renames into place as its last step
    (Flink's manual, "Checkpoints", "Directory Structure"). Every run counts on from the one it was restored
    from, but a fresh one begins again at 1: the time decides, and the number only between equal times.
    """
    complete = [path for path in directory.glob("*/chk-*/_metadata") if path.is_file() and path.stat().st_size > 0]
    if not complete:
        return None
    return max(complete, key=lambda path: (path.stat().st_mtime_ns, _number(path))).parent


def _number(metadata: Path) -> int:
    digits = metadata.parent.name.removeprefix("chk-")
    return int(digits) if digits.isdecimal() else -1

"""The jars: fetched by one call of Maven from a pinned pom, checked against checksums, the registry unpacked.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from typing import Final

from deploy.local import checksums
from deploy.local.paths import JAR_POM, JAR_SUMS, JARS, SETUP_STATE
from deploy.local.progress import SetupError, Step, megabytes, run_step
from deploy.local.stamps import Stamp, fingerprint

FETCHED: Final = ("kafka", "flink", "download")
"""What Maven fills, below `.run/jars`."""

_DOWNLOADED: Final = re.compile(r"Downloaded from .*?([\d.]+) (k|M|G)?B at ")
_UNITS: Final = {None: 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


class Transfers:
    """Reads Maven's messages: files and bytes so far."""

    def __init__(self) -> None:
        self.files = self.bytes = 0

    def line(self, text: str) -> None:
        """Take one line of Maven's output."""
        if match := _DOWNLOADED.search(text):
            self.files += 1
            self.bytes += int(float(match[1]) * _UNITS[match[2]])

    def measure(self) -> str:
        """How much is done."""
        return f"{self.files} files, {megabytes(self.bytes)} downloaded" if self.files else ""


def stamp() -> Stamp:
    """Holds when every jar is there, as it was when it was checked."""
    outputs = [JARS / name for name in (*FETCHED, "registry")]
    return Stamp(SETUP_STATE / "jars.json", fingerprint([JAR_POM, JAR_SUMS]), outputs)


def fetch() -> None:
    """Have Maven put the jars where we want them; what lies there already goes, so that nothing old stays."""
    for name in FETCHED:
        shutil.rmtree(JARS / name, ignore_errors=True)
    transfers = Transfers()
    # No -q: its messages are our progress.
    command = ["mvn", "-B", "-f", str(JAR_POM), f"-Djars.dir={JARS}", "package"]
    run_step("jars by Maven", command, log=SETUP_STATE / "maven.log", measure=transfers.measure, on_line=transfers.line)


def unpack_registry() -> None:
    """Unpack the registry; call it only when the tarball's checksum is known to be right."""
    tarball = next((JARS / "download").glob("apicurio-registry-app-*.tar.gz"), None)
    if tarball is None:
        raise SetupError(f"{JARS / 'download'}: the registry's tarball is missing; run: make setup")
    target, partial = JARS / "registry", JARS / "registry.partial"
    shutil.rmtree(partial, ignore_errors=True)
    done = 0
    with Step("schema registry unpacked", lambda: f"{done} files"), tarfile.open(tarball) as archive:
        for member in archive:
            if hasattr(tarfile, "data_filter"):
                archive.extract(member, partial, filter="data")
            else:
                archive.extract(member, partial)  # Python before 3.11.4; the checksum has vouched for it
            done += 1
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def provide() -> None:
    """Fetch, check and unpack. Raises SetupError when a file is not as the committed list says."""
    mark = stamp()
    mark.clear()
    fetch()
    files = checksums.present(JARS, FETCHED)
    with Step("jars checked", lambda: f"{len(files)} files"):
        checksums.verify(files, checksums.read_sums(JAR_SUMS))
    unpack_registry()
    mark.write()

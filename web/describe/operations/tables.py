"""Browsing the tables."""

from __future__ import annotations

from typing import Final

from streams.domain.errors import KafkaAccessError, KafkaUnavailableError
from web.browse.table_answers import KeyAnswer, KeysAnswer, TablesAnswer
from web.browse.tables import BROWSE_QUERY
from web.describe.operations.model import Answer, Content, Operation
from web.errors import UnknownKeyError, UnknownTableError, WorkerFailedError, WorkerUnavailableError
from web.negotiation import HTML, JSON

TAG: Final = "Tables"

_PAGE: Final = Content(HTML, {"type": "string"}, description="the same as a page to read")

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /tables": Operation(
        "tables",
        TAG,
        "Every table: its size, its parts, how far its restoration is",
        (Answer(200, "the tables, as this worker sees them", (Content(JSON, TablesAnswer), _PAGE)),),
        query=(),
        error_pages=True,
    ),
    "GET /tables/{table}": Operation(
        "tableKeys",
        TAG,
        "The keys of a table that this worker has, page by page",
        (Answer(200, "a page of keys", (Content(JSON, KeysAnswer), _PAGE)),),
        query=BROWSE_QUERY,
        errors=(UnknownTableError,),
        error_pages=True,
    ),
    "GET /tables/{table}/{key}": Operation(
        "tableKey",
        TAG,
        "Every row of a key, whichever workers have them",
        (Answer(200, "the rows", (Content(JSON, KeyAnswer), _PAGE)),),
        query=(),
        errors=(
            UnknownTableError,
            UnknownKeyError,
            WorkerUnavailableError,
            WorkerFailedError,
            KafkaUnavailableError,
            KafkaAccessError,
        ),
        error_pages=True,
    ),
}

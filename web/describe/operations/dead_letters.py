"""Looking at dead letters, and redriving them."""

from __future__ import annotations

from typing import Final

from streams.dead_letters import LetterView
from streams.domain.errors import (
    KafkaAccessError,
    KafkaUnavailableError,
    RedriveLogError,
    RedriveRunningError,
    RedriveSupersededError,
    RegistryAccessError,
    RegistryUnavailableError,
)
from web.browse.dead_letters import (
    PAGE_QUERY,
    DryRunAnswer,
    LettersAnswer,
    RedriveBody,
    RunAnswer,
    RunsAnswer,
)
from web.describe.operations.model import Answer, Content, Operation
from web.negotiation import JSON

TAG: Final = "Dead letters"

_KAFKA: Final = (KafkaUnavailableError, KafkaAccessError)
_REGISTRY: Final = (RegistryUnavailableError, RegistryAccessError)

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /dlq": Operation(
        "deadLetters",
        TAG,
        "Dead letters, newest first",
        (Answer(200, "a page of them", (Content(JSON, LettersAnswer),)),),
        query=PAGE_QUERY,
        errors=(*_KAFKA, *_REGISTRY),
    ),
    "GET /dlq/{partition}/{offset}": Operation(
        "deadLetter",
        TAG,
        "One dead letter in full",
        (Answer(200, "the letter", (Content(JSON, LetterView),)),),
        errors=(*_KAFKA, *_REGISTRY, RedriveLogError),
    ),
    "POST /dlq/redrive": Operation(
        "redrive",
        TAG,
        "Redrive dead letters",
        (
            Answer(200, "what a redrive would do now", (Content(JSON, DryRunAnswer),)),
            Answer(
                202, "a redrive has begun", (Content(JSON, RunAnswer),), {"Location": "where it is told how it goes"}
            ),
        ),
        description="A dry run unless the body says `dry_run: false`.",
        body=(Content(JSON, RedriveBody, {"filter": {"reasons": ["invalid_event"]}, "dry_run": True}),),
        body_required=False,
        errors=(*_KAFKA, *_REGISTRY, RedriveRunningError, RedriveSupersededError, RedriveLogError),
    ),
    "GET /dlq/redrives": Operation(
        "redrives",
        TAG,
        "What was redriven, by whom",
        (Answer(200, "every run, newest first", (Content(JSON, RunsAnswer),)),),
        query=(),
        errors=(*_KAFKA, RedriveLogError),
    ),
    "GET /dlq/redrives/{id}": Operation(
        "redriveRun",
        TAG,
        "One run",
        (Answer(200, "the run and its letters", (Content(JSON, RunAnswer),)),),
        errors=(*_KAFKA, RedriveLogError),
    ),
}

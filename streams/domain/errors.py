"""The platform's errors: one root, a stable code each, and the data that its handler needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class PlatformError(Exception):
    """Root of every error that the platform raises on purpose.

    `code` is stable and documented in `docs/errors.md`; it is what clients, DLQ records and
    metrics carry. `retriable` says whether the very same input may succeed later.
    """

    code: ClassVar[str] = "internal"
    retriable: ClassVar[bool] = False


class ConfigurationError(PlatformError):
    """A setting is missing or wrong; the message names the variable and what it takes."""

    code = "configuration"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field."""

    path: str
    """Where, as a JSON Pointer (RFC 6901): `/value`, or the empty string for the whole document."""
    message: str
    code: str = "invalid"


class InvalidEventError(PlatformError):
    """The event breaks a rule of the envelope; the same bytes will always break it."""

    code = "invalid_event"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.path or '/'}: {e.message}" for e in self.errors))


class MalformedEventError(InvalidEventError):
    """The bytes are not a document of the format that they claim to be."""

    code = "malformed_event"

    def __init__(self, message: str) -> None:
        super().__init__([FieldError("", message, "malformed")])


class TooManyRecordsError(PlatformError):
    """A batch has more records than the limit; none of them was looked at."""

    code = "too_many_records"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"a batch has {limit} records at most")


class UnsupportedFormatError(PlatformError):
    """The content type is none that the platform reads."""

    code = "unsupported_format"

    def __init__(self, content_type: str, supported: Sequence[str]) -> None:
        self.content_type = content_type
        self.supported = tuple(supported)
        super().__init__(f"{content_type!r} is not one of {', '.join(supported)}")


class UnknownTopicError(PlatformError):
    """No such event topic, or a name outside the `events.*` namespace."""

    code = "unknown_topic"

    def __init__(self, topic: str, detail: str = "no such topic") -> None:
        self.topic = topic
        super().__init__(f"{topic!r}: {detail}")


class UnavailableError(PlatformError):
    """Something the platform depends on is away; the same call may succeed later."""

    code = "unavailable"
    retriable = True

    def __init__(self, detail: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(detail)


class KafkaUnavailableError(UnavailableError):
    """Kafka did not take or give a record in time. A record may or may not be stored."""

    code = "kafka_unavailable"


class OverloadedError(UnavailableError):
    """Too much is in flight here; nothing of this call was started."""

    code = "overloaded"


class RecordRejectedError(PlatformError):
    """Kafka will never take this record as it is: too large, or not authorised."""

    code = "record_rejected"


class KafkaAccessError(PlatformError):
    """Kafka refused the credentials, the certificate or the operation."""

    code = "kafka_access"


class RegistryUnavailableError(UnavailableError):
    """The schema registry did not answer in time."""

    code = "registry_unavailable"


class RegistryAccessError(PlatformError):
    """The schema registry refused the credentials (401), or what was asked of it."""

    code = "registry_access"


class UnknownSchemaError(PlatformError):
    """No schema has this id: the record cannot be read, now or later."""

    code = "unknown_schema"


class IncompatibleSchemaError(PlatformError):
    """The registry refuses the schema: it is not compatible with the subject's versions. `reasons` are its own."""

    code = "incompatible_schema"

    def __init__(self, detail: str, reasons: Sequence[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__(detail)


class InvalidSchemaError(PlatformError):
    """The text is no schema of its kind, or lacks the envelope; `errors` name the fields of the event."""

    code = "invalid_schema"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.path or '/'}: {e.message}" for e in self.errors))


class InvalidTopicError(PlatformError):
    """A topic cannot be as it is asked for; `errors` name the members of the request."""

    code = "invalid_topic"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.path or '/'}: {e.message}" for e in self.errors))


class TopicExistsError(PlatformError):
    """There is a topic of this name, or one that Kafka cannot tell from it in its metrics."""

    code = "topic_exists"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)


class TooManyTopicsError(PlatformError):
    """First events may create no more topics; an administrator may."""

    code = "too_many_topics"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"there are {limit} event topics or more: a first event creates none; POST /api/v1/topics does, with the"
            " scope topics:admin, or raise STREAMS_MAX_TOPICS"
        )


class DuplicateEventError(PlatformError):
    """An event with this id was stored lately; only where ingress is de-duplicated."""

    code = "duplicate_event"

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        super().__init__(f"the event {event_id} was stored before")


class IdempotencyConflictError(PlatformError):
    """Another event was taken lately under this event id, or this Idempotency-Key."""

    code = "idempotency_conflict"

    def __init__(self) -> None:
        super().__init__("another event was taken under this event_id or Idempotency-Key: use a new one")


class RedriveRunningError(PlatformError):
    """A redrive runs in this worker already; when it has ended, another may begin."""

    code = "redrive_running"
    retriable = True


class RedriveSupersededError(PlatformError):
    """Another redrive was started, by whomever: it has ended this one, and goes on from what this one has done."""

    code = "redrive_superseded"


class RedriveLogError(PlatformError):
    """A record of `platform.redrives` cannot be read: what was redriven is not known, so nothing may be."""

    code = "redrive_log"


class AuthenticationError(PlatformError):
    """No valid token came with the request (401)."""

    code = "unauthenticated"


class PermissionDeniedError(PlatformError):
    """The token is valid but lacks a scope (403)."""

    code = "forbidden"

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(f"the token lacks the scope {scope!r}")

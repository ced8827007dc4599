"""The errors of aiokafka and confluent-kafka become the platform's, once, here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidMessageError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
)
from confluent_kafka import KafkaError as ConfluentError
from confluent_kafka import KafkaException

from streams.domain.errors import (
    KafkaAccessError,
    KafkaUnavailableError,
    PlatformError,
    RecordRejectedError,
    UnknownTopicError,
)

_ACCESS = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
_CONFLUENT_ACCESS = {
    ConfluentError._AUTHENTICATION,  # noqa: SLF001  # librdkafka's local codes are published with an underscore
    ConfluentError.SASL_AUTHENTICATION_FAILED,
    ConfluentError.CLUSTER_AUTHORIZATION_FAILED,
    ConfluentError.GROUP_AUTHORIZATION_FAILED,
    ConfluentError.TOPIC_AUTHORIZATION_FAILED,
}
_REJECTED = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidMessageError)


def translate(exc: KafkaError | TimeoutError | OSError, doing: str) -> PlatformError:
    """The platform's error for one of a Kafka client, met while `doing` something."""
    detail = f"cannot {doing}: {str(exc) or type(exc).__name__}"
    if isinstance(exc, _ACCESS):
        return KafkaAccessError(detail)
    if isinstance(exc, _REJECTED):
        return RecordRejectedError(detail)
    if isinstance(exc, UnknownTopicOrPartitionError):
        return UnknownTopicError(doing, "Kafka has no such topic")
    # What is left is a broker, a leader or a connection that is away for now, or an answer that came too late.
    return KafkaUnavailableError(detail)


def translate_confluent(exc: KafkaException, doing: str) -> PlatformError:
    """The same for one of confluent-kafka."""
    error: ConfluentError = exc.args[0]
    detail = f"cannot {doing}: {error.str()}"
    return KafkaAccessError(detail) if error.code() in _CONFLUENT_ACCESS else KafkaUnavailableError(detail)


def platform_error(error: Exception, doing: str) -> Exception:
    """The platform's error for one of a Kafka client; any other error as it is."""
    return translate(error, doing) if isinstance(error, KafkaError | TimeoutError | OSError) else error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Within it, errors of the Kafka client are raised as the platform's."""
    try:
        yield
    except (KafkaError, TimeoutError, OSError) as exc:
        raise translate(exc, doing) from exc

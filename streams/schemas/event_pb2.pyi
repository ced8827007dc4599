from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message

DESCRIPTOR: _descriptor.FileDescriptor

class Event(_message.Message):
    __slots__ = ("device_id", "event_id", "event_type", "payload", "source", "timestamp", "user_id", "value")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_type: str
    timestamp: int
    user_id: str
    device_id: str
    value: float
    source: str
    payload: str
    def __init__(
        self,
        event_id: str | None = ...,
        event_type: str | None = ...,
        timestamp: int | None = ...,
        user_id: str | None = ...,
        device_id: str | None = ...,
        value: float | None = ...,
        source: str | None = ...,
        payload: str | None = ...,
    ) -> None: ...

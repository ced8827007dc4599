"""A topic's own Protobuf message: clients send events in it. In Kafka the event is as any other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from streams.codecs import refuse_unknown_fields
from streams.domain.envelope import Event
from streams.domain.envelope_schema import PAYLOAD
from streams.domain.errors import FieldError, InvalidEventError, InvalidSchemaError, MalformedEventError
from streams.schemas import event_pb2
from streams.topic_schemas.definition import payload_of

_FILE: Final = "topic.proto"
_COMPILE_S: Final = 10.0
_STUMBLES: Final = (
    DecodeError,
    json_format.Error,
    ValueError,  # a Timestamp out of its range
    TypeError,  # an Any of a type that is not in the schema
    AttributeError,  # an Any whose @type is no text
    OverflowError,  # a whole number in a Value that no double holds
    RecursionError,  # an Any within an Any, and so on: each is parsed by itself, past the limit of depth
)
"""What Protobuf's JSON raises of a stranger's data; its own errors are but some of it."""
_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


class ProtobufDefinition:
    """The envelope, by the numbers of `event.proto`, with a payload that is a message, or JSON text.

    It is the first message of its file, as the serialisers of Confluent take it.
    """

    def __init__(self, text: str) -> None:
        compiled = _compiled(text)
        self._pool = DescriptorPool()
        for file in compiled.file:
            self._pool.Add(file)
        own = compiled.file[-1]
        if not own.message_type:
            raise InvalidSchemaError([FieldError("", "there is no message in it", "required")])
        name = f"{own.package}.{own.message_type[0].name}".lstrip(".")
        descriptor: Descriptor = self._pool.FindMessageTypeByName(name)
        if errors := envelope_errors(descriptor):
            raise InvalidSchemaError(errors)
        self._message: type[Message] = GetMessageClass(descriptor)
        payload: Descriptor | None = descriptor.fields_by_name[PAYLOAD].message_type
        self._payload: type[Message] | None = None if payload is None else GetMessageClass(payload)

    def check(self, event: Event) -> None:
        """Return if the payload is the message's, in Protobuf's JSON. Raises InvalidEventError."""
        if self._payload is None:
            return
        try:
            json_format.ParseDict(payload_of(event), self._payload(), descriptor_pool=self._pool)
        except _STUMBLES as exc:
            raise InvalidEventError([FieldError(f"/{PAYLOAD}", str(exc), "schema")]) from exc

    def fields(self, data: bytes) -> Mapping[str, object]:
        """The fields that a message has; its payload as JSON text. Raises MalformedEventError, or InvalidEventError."""
        message = self._message()
        try:
            message.ParseFromString(data)
            refuse_unknown_fields(message)
            found = {field.name: value for field, value in message.ListFields()}
            if self._payload is not None and PAYLOAD in found:
                payload = json_format.MessageToDict(
                    found[PAYLOAD], preserving_proto_field_name=True, descriptor_pool=self._pool
                )
                found[PAYLOAD] = json.dumps(payload, ensure_ascii=False)
        except _STUMBLES as exc:
            raise MalformedEventError(f"not a Protobuf {self._message.DESCRIPTOR.full_name}: {exc}") from exc
        return found


def envelope_errors(message: Descriptor) -> list[FieldError]:
    """What keeps a message from having the envelope: its fields, of the same numbers and types, and no others.

    By number, since that is how Protobuf finds a field: who knows `streams.Event` alone reads the envelope of any.
    """
    ours = event_pb2.Event.DESCRIPTOR.fields_by_name
    theirs = message.fields_by_name
    errors = [
        FieldError(f"/{name}", "required: every event has the envelope", "required")
        for name in ours
        if name not in theirs
    ]
    for name, field in theirs.items():
        if name not in ours:
            errors.append(
                FieldError(f"/{name}", "not in the envelope; data of your own goes into payload", "unknown_field")
            )
        elif not _agrees(field, ours[name]):
            errors.append(FieldError(f"/{name}", f"expected {_text(ours[name])}", "invalid_type"))
    return errors


def _agrees(field: Any, ours: Any) -> bool:
    types = {ours.type} | ({FieldDescriptor.TYPE_MESSAGE} if ours.name == PAYLOAD else set())
    single = not field.is_repeated and not field.is_required
    return single and field.number == ours.number and field.type in types


def _text(field: Any) -> str:
    type_ = "string or a message" if field.name == PAYLOAD else _TYPES[field.type]
    return f"{type_}, optional, with the number {field.number}"


def _compiled(text: str) -> FileDescriptorSet:
    """The file and all that it imports, itself last. Raises InvalidSchemaError.

    By protoc, as a process of its own: it is a compiler, given a stranger's text. It finds Protobuf's own files, such
    as google/protobuf/timestamp.proto, and no others.
    """
    with TemporaryDirectory() as directory, as_file(files("grpc_tools") / "_proto") as well_known:
        (Path(directory) / _FILE).write_text(text, encoding="utf-8", errors="replace")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{directory}", f"-I{well_known}"]
        command += ["--include_imports", "--descriptor_set_out=out", _FILE]
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, timeout=_COMPILE_S, check=False)
        except subprocess.TimeoutExpired as exc:
            message = f"protoc was not done with it in {_COMPILE_S:g} s"
            raise InvalidSchemaError([FieldError("", message, "unsafe")]) from exc
        if done.returncode != 0:
            raise InvalidSchemaError([FieldError("", f"not Protobuf: {_complaints(done.stderr)}", "malformed")])
        return FileDescriptorSet.FromString((Path(directory) / "out").read_bytes())


def _complaints(stderr: bytes) -> str:
    """What protoc says of the file: line, column, message; without its warnings."""
    found = re.findall(rf"^(?:\S*/)?{re.escape(_FILE)}:(\d.*)$", stderr.decode(errors="replace"), re.MULTILINE)
    return "; ".join(found) or "protoc refuses it"

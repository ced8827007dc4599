"""JSON as Avro data: a value is checked against a schema, strictly, and becomes what an Avro library writes.

fastavro is no judge of it: it takes a true for a number, a number too large, an unknown field. And Avro's own
encoding of JSON, with its tagged unions, is not what people write. The rules here:

- a record is an object: each field without a default is required, and unknown ones are refused;
- bytes and fixed are base64, as Protobuf has them and as msgspec writes them;
- of a union it is the first branch that fits, of numbers the first that holds the value as it is: a float would make
  16777216 of 16777217. A record fits if its fields do, by name, so that no value is looked at twice;
- logical types are not looked into: a timestamp-millis is a long.
"""

from __future__ import annotations

import binascii
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from streams.domain.errors import FieldError

Errors = list[FieldError]

MAX_DEFAULT: Final = 10_000
"""What a field's default may weigh: 1 a value, and 1 more for every 8 characters. Defaults within defaults double each time."""
_INT: Final = 1 << 31
_LONG: Final = 1 << 63


class AvroType(ABC):
    """One type of a schema."""

    expected: str
    """What a value must be, for people."""
    filled: int = 0
    """What the defaults weigh together that one object in a value may be filled with, at most."""

    @abstractmethod
    def fits(self, value: object) -> bool:
        """Whether a value is meant for this branch of a union. A whole answer for all but what has parts."""

    def holds(self, value: object) -> bool:
        """Whether it fits, and comes back equal."""
        return self.fits(value)

    @abstractmethod
    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        """The value for Avro. What is wrong is added to the errors, with its JSON Pointer, and the result is void."""

    @abstractmethod
    def default(self, value: Any) -> Any:
        """A default, as a schema has it, for Avro: complete, so that no writer adds to it. Raises ValueError."""

    def _refuse(self, path: str, errors: Errors) -> None:
        errors.append(FieldError(path, f"expected {self.expected}", "invalid_type"))


class _Scalar(AvroType):
    def __init__(
        self, expected: str, read: Callable[[Any], Any], read_default: Callable[[Any], Any] | None = None
    ) -> None:
        self.expected = expected
        self._read = read
        self._read_default = read_default or read

    def fits(self, value: object) -> bool:
        try:
            self._read(value)
        except ValueError:
            return False
        return True

    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        try:
            return self._read(value)
        except ValueError:
            self._refuse(path, errors)

    def default(self, value: Any) -> Any:
        return self._read_default(value)


class _Number(_Scalar):
    def __init__(self, expected: str, format_: str) -> None:
        super().__init__(expected, _number(format_))
        self._format = format_

    def holds(self, value: Any) -> bool:
        return self.fits(value) and struct.unpack(self._format, struct.pack(self._format, value))[0] == value


class _Array(AvroType):
    expected = "an array"

    def __init__(self, items: AvroType) -> None:
        self._items = items
        self.filled = items.filled

    def fits(self, value: object) -> bool:
        return isinstance(value, list)

    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        if not isinstance(value, list):
            return self._refuse(path, errors)
        return [self._items.convert(item, f"{path}/{place}", errors) for place, item in enumerate(value)]

    def default(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError  # noqa: TRY004  - one signal for every kind of misfit
        return [self._items.default(item) for item in value]


class _Map(AvroType):
    expected = "an object"

    def __init__(self, values: AvroType) -> None:
        self._values = values
        self.filled = values.filled

    def fits(self, value: object) -> bool:
        return isinstance(value, dict)

    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        if not isinstance(value, dict):
            return self._refuse(path, errors)
        return {key: self._values.convert(item, path + _step(key), errors) for key, item in value.items()}

    def default(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError  # noqa: TRY004  - one signal for every kind of misfit
        return {key: self._values.default(item) for key, item in value.items()}


class _Record(AvroType):
    expected = "an object"

    def __init__(self, name: str, fields: Mapping[str, AvroType], defaults: Mapping[str, Any]) -> None:
        self.name = name
        self._fields = fields
        self._defaults = defaults
        own = sum(map(_weight, defaults.values()))
        self.filled = max([own, *(type_.filled for type_ in fields.values())])

    def fits(self, value: object) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() <= self._fields.keys()
            and all(name in value or name in self._defaults for name in self._fields)
        )

    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        if not isinstance(value, dict):
            return self._refuse(path, errors)
        found: dict[str, Any] = {}
        for name, type_ in self._fields.items():
            if name in value:
                found[name] = type_.convert(value[name], path + _step(name), errors)
            elif name in self._defaults:
                found[name] = self._defaults[name]
            else:
                errors.append(FieldError(path + _step(name), "required", "required"))
        errors += [
            FieldError(path + _step(name), "the topic's schema has no such field", "unknown_field")
            for name in value
            if name not in self._fields
        ]
        return found

    def default(self, value: Any) -> Any:
        if not isinstance(value, dict) or not value.keys() | self._defaults.keys() >= self._fields.keys():
            raise ValueError
        return {
            name: type_.default(value[name]) if name in value else self._defaults[name]
            for name, type_ in self._fields.items()
        }


class _Union(AvroType):
    def __init__(self, branches: list[AvroType], names: list[str | None]) -> None:
        self._branches = branches
        self._names = dict(zip(branches, names, strict=True))
        """By which fastavro is told of a branch; None: it finds it by itself."""
        self.expected = " or ".join(branch.expected for branch in branches)
        self.filled = max(branch.filled for branch in branches)

    def fits(self, value: object) -> bool:
        return any(branch.fits(value) for branch in self._branches)

    def convert(self, value: Any, path: str, errors: Errors) -> Any:
        branch = next((branch for branch in self._branches if branch.holds(value)), None)
        if branch is None:
            branch = next((branch for branch in self._branches if branch.fits(value)), None)
        if branch is None and value is not None and len(others := [b for b in self._branches if b is not _NULL]) == 1:
            # Meant for the only one there is: what is wrong with it says more than that nothing fits.
            branch = others[0]
        if branch is None:
            return self._refuse(path, errors)
        return self._of(branch, branch.convert(value, path, errors))

    def default(self, value: Any) -> Any:
        for branch in self._branches:
            try:
                return self._of(branch, branch.default(value))
            except ValueError:
                continue
        raise ValueError

    def _of(self, branch: AvroType, datum: Any) -> Any:
        # By name: fastavro would choose among records, and among numbers, by itself.
        name = branch.name if isinstance(branch, _Record) else self._names[branch]
        return datum if name is None else (name, datum)


def avro_type(schema: Any) -> AvroType:
    """The type of a schema, as fastavro's `parse_schema` gives it: valid, and every name in full.

    Raises ValueError for what no reader can read safely from a stranger's bytes: a type within itself, which nests
    until the stack is full, and a type without a byte, of which an array has as many as it says. And for a default that
    is not of its field's type, which fastavro finds out when it writes, or is larger than `MAX_DEFAULT`.
    """
    return _build(schema, {}, in_union=False)


def _build(schema: Any, named: dict[str, AvroType], *, in_union: bool) -> AvroType:
    if isinstance(schema, list):
        names = [branch if isinstance(branch, str) and branch in _PRIMITIVES else None for branch in schema]
        return _Union([_build(branch, named, in_union=True) for branch in schema], names)
    if not isinstance(schema, dict):
        if schema == "null" and not in_union:
            raise ValueError("null stands outside a union")
        if (found := _PRIMITIVES.get(schema) or named.get(schema)) is None:
            # A valid schema has each name before it is used: this one is not complete yet.
            raise ValueError(f"the record {schema} is within itself")
        return found
    type_: AvroType
    match schema["type"]:
        case "record" | "error":
            type_ = named[schema["name"]] = _record(schema, named)
        case "enum":
            type_ = named[schema["name"]] = _enum(schema["symbols"])
        case "fixed":
            type_ = named[schema["name"]] = _fixed(schema["size"])
        case "array":
            type_ = _Array(_build(schema["items"], named, in_union=False))
        case "map":
            type_ = _Map(_build(schema["values"], named, in_union=False))
        case inner:
            type_ = _build(inner, named, in_union=in_union)
    return type_


def _record(schema: Any, named: dict[str, AvroType]) -> _Record:
    fields = schema["fields"]
    if not fields:
        raise ValueError(f"the record {schema['name']} has no field")
    types = {field["name"]: _build(field["type"], named, in_union=False) for field in fields}
    return _Record(
        schema["name"],
        types,
        {
            field["name"]: _default(types[field["name"]], schema["name"], field)
            for field in fields
            if "default" in field
        },
    )


def _default(type_: AvroType, record: str, field: Any) -> Any:
    where = f"the default of {field['name']} in the record {record}"
    try:
        datum = type_.default(field["default"])
    except ValueError as exc:
        raise ValueError(f"{where} is not of its type: expected {type_.expected}") from exc
    if _weight(datum) > MAX_DEFAULT:
        raise ValueError(f"{where} is too large")
    return datum


def _weight(datum: Any) -> int:
    """What a default weighs, as `MAX_DEFAULT` counts; past that it is not looked at further."""
    weight = 0
    left = [datum]
    while left and weight <= MAX_DEFAULT:
        one = left.pop()
        weight += 1
        match one:
            case str() | bytes():
                weight += len(one) // 8
            case list() | tuple():
                left.extend(one)
            case dict():
                left.extend(one.values())
    return weight


def _step(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _null(value: Any) -> None:
    if value is not None:
        raise ValueError


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004  - one signal for every kind of misfit
    return value


def _integer(limit: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        # True is an int to Python, and to nobody else.
        if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
            raise ValueError
        return value

    return read


def _number(format_: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError  # noqa: TRY004  - one signal for every kind of misfit
        try:
            struct.pack(format_, value)
            return float(value)
        except (OverflowError, struct.error):
            raise ValueError from None

    return read


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004  - one signal for every kind of misfit
    return value


def _bytes(value: Any) -> bytes:
    try:
        return binascii.a2b_base64(_string(value), strict_mode=True)
    except binascii.Error:
        raise ValueError from None


def _default_bytes(value: Any) -> bytes:
    """In a schema, bytes are a text of the characters 0 to 255."""
    return _string(value).encode("latin-1")


def _enum(symbols: list[str]) -> AvroType:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in symbols:
            raise ValueError
        return value

    return _Scalar("one of " + ", ".join(symbols), read)


def _fixed(size: int) -> AvroType:
    if size < 1:
        raise ValueError("a fixed type has no byte")

    def sized(read: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        def checked(value: Any) -> bytes:
            if len(found := read(value)) != size:
                raise ValueError
            return found

        return checked

    return _Scalar(f"{size} bytes in base64", sized(_bytes), sized(_default_bytes))


_NULL: Final = _Scalar("null", _null)
_PRIMITIVES: Final[Mapping[str, AvroType]] = {
    "null": _NULL,
    "boolean": _Scalar("true or false", _boolean),
    "int": _Scalar("a whole number of 32 bits", _integer(_INT)),
    "long": _Scalar("a whole number of 64 bits", _integer(_LONG)),
    "float": _Number("a number of single precision", "<f"),
    "double": _Number("a number", "<d"),
    "string": _Scalar("a text", _string),
    "bytes": _Scalar("bytes in base64", _bytes, _default_bytes),
}

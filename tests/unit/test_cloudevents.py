"""CloudEvents 1.0 to our events: the mapping, and errors in the sender's own words."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from multidict import CIMultiDict

from streams import cloudevents
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, MalformedEventError
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS

ID = "6B0E5A52-1111-4D7C-9D4E-0D1A5B1F8C11"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MINIMAL = {"specversion": "1.0", "id": ID, "source": "/plant/7", "type": "com.example.reading", "subject": "d1"}


def structured(**attributes: Any) -> Event:
    return read_structured(json.dumps(MINIMAL | attributes).encode())


def read_structured(document: bytes) -> Event:
    return cloudevents.structured(document, rules=EventRules(), now_ms=NOW_MS, new_event_id=lambda: "never")


def binary(headers: dict[str, str], body: bytes = b"", content_type: str = "application/json") -> Event:
    attributes = cloudevents.header_attributes(headers.items())
    return cloudevents.binary(
        attributes, body, content_type, rules=EventRules(), now_ms=NOW_MS, new_event_id=lambda: "never"
    )


def headers(**attributes: str) -> dict[str, str]:
    return {f"ce-{name}": value for name, value in ({**MINIMAL} | attributes).items()}


def paths(call: Any, *args: Any, **kwargs: Any) -> set[str]:
    with pytest.raises(InvalidEventError) as refused:
        call(*args, **kwargs)
    assert all(error.message and error.code for error in refused.value.errors)
    return {error.path for error in refused.value.errors}


def test_the_least_cloudevent_is_an_event_of_now():
    assert structured() == Event(ID.lower(), "com.example.reading", NOW_MS, None, "d1", None, "/plant/7", "{}")


def test_every_attribute_has_its_place():
    event = structured(
        time="2025-06-15T15:06:40.5+02:00",
        userid="u1",
        deviceid="d2",
        value="21.5",
        data={"a": [1, None]},
        datacontenttype="application/vnd.example+json; charset=utf-8",
        dataschema="https://example.com/schema",
        knativearrivaltime="2025-06-15T15:06:41Z",
    )
    assert event == Event(
        ID.lower(), "com.example.reading", 1_749_992_800_500, "u1", "d2", 21.5, "/plant/7", '{"a": [1, null]}'
    )


class TestIdentity:
    """CloudEvents tells events by `source` and `id` together; we by one UUID."""

    def test_a_uuid_is_kept_and_any_other_id_becomes_one(self):
        assert structured(id=ID).event_id == ID.lower()
        made = structured(id="A234-1").event_id
        assert uuid.UUID(made).version == 5

    def test_a_repeat_has_the_same_id_and_another_source_another(self):
        assert structured(id="1").event_id == structured(id="1", data={"a": 1}).event_id
        assert structured(id="1").event_id != structured(id="1", source="/plant/8").event_id
        assert structured(id="1").event_id != structured(id="2").event_id

    def test_no_two_pairs_are_taken_for_one(self):
        assert structured(id="bc", source="a").event_id != structured(id="c", source="ab").event_id
        assert structured(id=" b", source="a").event_id != structured(id="b", source="a ").event_id


@pytest.mark.parametrize(
    ("attributes", "user_id", "device_id"),
    [
        ({"userid": "u"}, "u", None),
        ({"deviceid": "d"}, None, "d"),
        ({"userid": "u", "deviceid": "d", "partitionkey": "p"}, "u", "d"),
        ({"userid": "u", "partitionkey": "p"}, "u", None),
        ({"partitionkey": "p"}, None, "p"),
        ({}, None, "d1"),
        ({"userid": None, "partitionkey": None}, None, "d1"),
    ],
)
def test_the_key_is_a_named_one_or_the_partition_key_or_the_subject(attributes, user_id, device_id):
    event = structured(**attributes)
    assert (event.user_id, event.device_id) == (user_id, device_id)


def test_an_event_without_a_key_is_told_which_attributes_may_give_one():
    with pytest.raises(InvalidEventError, match="userid, deviceid, partitionkey and subject"):
        structured(subject=None)


@pytest.mark.parametrize(
    ("value", "expected"), [(21.5, 21.5), (-3, -3.0), ("21.5", 21.5), ("-1e3", -1000.0), (None, None)]
)
def test_a_value_is_a_number_or_the_text_of_one(value, expected):
    assert structured(value=value).value == expected


@pytest.mark.parametrize("value", ["", "nan", "inf", "1_000", " 1", "0x10", "1e999", "9" * 401, True, [], {}])
def test_another_value_is_refused(value):
    assert paths(structured, value=value) == {"/value"}


def test_data_may_be_json_in_base64():
    assert structured(data_base64=base64.b64encode(b'{"a": 1}').decode()).payload == '{"a": 1}'


@pytest.mark.parametrize(
    ("attributes", "wrong"),
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"specversion": None}, "/specversion"),
        ({"id": ""}, "/id"),
        ({"id": 7}, "/id"),
        ({"source": None}, "/source"),
        ({"source": "s" * 257}, "/source"),
        ({"type": "a b"}, "/type"),
        ({"type": None}, "/type"),
        ({"time": "yesterday"}, "/time"),
        ({"time": NOW_MS}, "/time"),
        ({"time": "2200-01-01T00:00:00Z"}, "/time"),
        ({"subject": ""}, "/subject"),
        ({"partitionkey": "p" * 257}, "/partitionkey"),
        ({"userid": ""}, "/userid"),
        ({"deviceid": []}, "/deviceid"),
        ({"datacontenttype": "text/xml", "data": "<a/>"}, "/datacontenttype"),
        ({"data": "text"}, "/data"),
        ({"data": [1]}, "/data"),
        ({"data": {"a": json.loads("9" * 401)}}, "/data"),
        ({"data_base64": "e30"}, "/data_base64"),
        ({"data_base64": "/w=="}, "/data_base64"),
        ({"data_base64": "W10="}, "/data_base64"),
        ({"data_base64": "e30=", "data": {}}, "/data_base64"),
    ],
)
def test_a_fault_is_told_by_the_attribute_that_has_it(attributes, wrong):
    if attributes.get("datacontenttype") == "text/xml":
        assert wrong in paths(structured, **attributes)
    else:
        assert paths(structured, **attributes) == {wrong}


def test_every_fault_is_told_at_once():
    assert paths(read_structured, b'{"time": "now", "value": "x"}') == {
        "", "/specversion", "/id", "/source", "/type", "/time", "/value",
    }  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b'{"id": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"id": "\\ud800"}',
        # First of a wrong type, then no JSON.
        b'{"id": 7, ',
        b'{"id": 7, "a": ' + b"[" * 5_000,
        b'{"id": 7, "\xff": 1}',
    ],
)
def test_what_is_no_json_is_malformed(document):
    with pytest.raises(MalformedEventError):
        read_structured(document)


@pytest.mark.parametrize("document", [b"[]", b"7", b'"a"', b"null"])
def test_what_is_no_object_is_invalid(document):
    assert paths(read_structured, document) == {""}


def test_an_attribute_that_is_there_twice_and_wrong_once_is_refused():
    assert paths(read_structured, b'{"id": 7, ' + json.dumps(MINIMAL).encode()[1:]) == {""}


def test_data_that_is_no_utf8_or_nests_too_deep_is_refused():
    def document(data: bytes) -> bytes:
        return json.dumps(MINIMAL).encode()[:-1] + b', "data": ' + data + b"}"

    assert paths(read_structured, document(b'{"a": "\xff"}')) == {"/data"}
    assert paths(read_structured, document(b'{"a":' * 65 + b"1" + b"}" * 65)) == {"/data"}
    assert paths(read_structured, document(b"[" * 5_000 + b"]" * 5_000)) <= {"", "/data"}


class TestBinary:
    """Attributes as headers, data as the body."""

    def test_it_is_the_event_that_the_structured_one_is(self):
        found = binary(headers(time="2025-06-15T15:06:40Z", userid="u1", value="21.5"), b'{"a": [1, null]}')
        assert found == structured(time="2025-06-15T15:06:40Z", userid="u1", value="21.5", data={"a": [1, None]})

    def test_header_names_have_no_case_and_other_headers_do_not_count(self):
        found = binary({name.upper(): value for name, value in headers().items()} | {"Host": "h", "X-ce-type": "x"})
        assert found == structured()

    def test_without_a_body_or_a_content_type_there_is_no_data(self):
        assert binary(headers(), b"", "").payload == "{}"

    @pytest.mark.parametrize("body", [b"[]", b"text", b'{"a":', b"\xff", b"{} {}", b'"e30="'])
    def test_a_body_that_is_no_json_object_is_refused(self, body):
        assert paths(binary, headers(), body) == {"/data"}

    def test_a_body_of_another_type_is_refused(self):
        assert "/datacontenttype" in paths(binary, headers(), b"<a/>", "application/xml")

    def test_data_cannot_come_in_headers(self):
        assert (
            binary(headers(data="{}", data_base64="e30=", datacontenttype="text/xml"), b'{"a": 1}').payload
            == '{"a": 1}'
        )

    @pytest.mark.parametrize(
        ("sent", "meant"),
        [
            ("plain-~!", "plain-~!"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u20ac \U0001f600"),
            ("%c3%a9%41", "éA"),
            ("100%", "100%"),
            ("a%2525", "a%25"),
            ('"quoted text"', "quoted text"),
            (r'"a \"b\" \\ %20c"', 'a "b" \\  c'),
            ('half "quoted"', 'half "quoted"'),
            ("dévice", "dévice"),
        ],
    )
    def test_a_header_is_unquoted_and_then_percent_decoded_once(self, sent, meant):
        """HTTP binding, section 3.1.3.2; the example with the euro sign is its own."""
        assert binary(headers(subject=sent)).device_id == meant

    @pytest.mark.parametrize("sent", ["%C0%A0", "%ff", "%ed%a0%80", "caf\udce9"])
    def test_a_header_that_is_no_utf8_is_refused(self, sent):
        assert paths(binary, headers(subject=sent, type="%ff")) == {"/subject", "/type"}

    def test_a_request_is_binary_by_its_headers_unless_its_content_type_says_otherwise(self):
        ours = CIMultiDict({"CE-SpecVersion": "1.0"})
        assert cloudevents.is_binary(ours, "application/json")
        assert not cloudevents.is_binary(ours, "application/CloudEvents+json; charset=utf-8")
        assert not cloudevents.is_binary(CIMultiDict({"ce-id": "1"}), "application/json")


def test_a_trace_goes_on_and_is_no_part_of_the_event():
    document = json.dumps(MINIMAL | {"traceparent": TRACEPARENT}).encode()
    assert cloudevents.traceparent_of(document) == TRACEPARENT
    assert read_structured(document) == structured()


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"traceparent": "\xff"}', b"[" * 9_999, b'{"a":' * 9_999])
def test_what_is_no_cloudevent_has_no_trace(document):
    assert cloudevents.traceparent_of(document) is None


@pytest.mark.parametrize("trace", [None, 7, []])
def test_a_trace_that_is_none_does_not_stop_the_event(trace):
    document = json.dumps(MINIMAL | {"traceparent": trace}).encode()
    assert cloudevents.traceparent_of(document) is None
    assert read_structured(document) == structured()


# What the CloudEvents SDK for Python (2.2.0; the last two: its interface of 1.x) sends of one event.
SDK_HEADERS = {
    "ce-type": "com.example.reading",
    "ce-source": "/plant/7",
    "ce-id": "A234-1",
    "ce-subject": "d%C3%A9vice%201%20%22x%22%20100%25",
    "ce-time": "2025-06-15T15:06:40Z",
    "ce-value": "21.5",
    "ce-specversion": "1.0",
}
SDK_HEADERS_1 = SDK_HEADERS | {"ce-subject": 'dévice 1 "x" 100%'}
SDK_BODY = b'{"a": [1, {"b": "\\u00e9"}]}'
SDK_ATTRIBUTES = (
    b'{"type": "com.example.reading", "source": "/plant/7", "id": "A234-1", "subject": "d\\u00e9vice 1 \\"x\\" 100%", '
    b'"time": "2025-06-15T15:06:40Z", "value": "21.5", "datacontenttype": "application/json", "specversion": "1.0", '
)


def test_what_the_sdk_sends_is_one_event_in_every_mode():
    found = [
        binary(SDK_HEADERS, SDK_BODY),
        binary(SDK_HEADERS_1, SDK_BODY, ""),
        read_structured(SDK_ATTRIBUTES + b'"data": ' + SDK_BODY + b"}"),
        read_structured(SDK_ATTRIBUTES + b'"data_base64": "' + base64.b64encode(SDK_BODY) + b'"}'),
    ]
    assert found[0].device_id == 'dévice 1 "x" 100%'
    assert json.loads(found[0].payload) == {"a": [1, {"b": "é"}]}
    assert found == [found[0]] * 4

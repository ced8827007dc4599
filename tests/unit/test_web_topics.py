"""Topics over HTTP: what is refused and why, what is created and in which order, who may."""

from __future__ import annotations

import asyncio
import json

import pytest

from streams import schemas
from streams.domain.errors import KafkaUnavailableError, RegistryUnavailableError
from tests.topic_schemas import JSON_SCHEMA, PROTO, typed_avro
from tests.web_gateway import EVENT, PARTITIONS, SCHEMA_ID, gateway, problem_of

TOPICS = "/api/v1/topics"


async def post(g, path: str, body, scopes: str = "topics:admin"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await g.client.post(path, data=data, headers=g.headers(scopes, **{"Content-Type": "application/json"}))


async def get(g, path: str, scopes: str = "topics:read"):
    return await g.client.get(path, headers=g.headers(scopes))


async def test_topics_are_listed_by_name_and_page_by_page_and_those_of_the_platform_are_not():
    async with gateway() as g:
        for name in ("b", "a", "c"):
            assert (await post(g, TOPICS, {"name": name})).status == 201
        first = await (await get(g, f"{TOPICS}?limit=2")).json()
        assert ([topic["name"] for topic in first["topics"]], first["after"]) == (["a", "b"], "b")
        second = await (await get(g, f"{TOPICS}?limit=2&after=b")).json()
        assert ([topic["name"] for topic in second["topics"]], second["after"]) == (["c", "iot"], None)
        assert second["topics"][1] == {
            "name": "iot",
            "partitions": PARTITIONS,
            "events": 1,
            "retention_ms": 3_600_000,
            "cleanup_policy": "delete",
            "schema_type": "AVRO",
        }


async def test_a_topic_is_created_as_it_is_asked_for_with_its_schema_first():
    async with gateway() as g:
        new = {"name": "orders", "partitions": 7, "retention_hours": 2, "schema": {"schema": json.loads(typed_avro())}}
        response = await post(g, TOPICS, new)
        assert (response.status, response.headers["Location"]) == (201, f"{TOPICS}/orders")
        assert (await response.json())["partitions"] == 7
        spec = g.admin.specs["events.orders"]
        assert (spec.partitions, spec.configs["retention.ms"]) == (7, str(2 * 3_600_000))
        assert json.loads(g.registry.registered["events.orders-value"][0].text) == json.loads(typed_avro())
        # It takes events at once, and by its schema.
        bad, good = EVENT | {"payload": {}}, EVENT | {"payload": {"order": "o", "lines": []}}
        assert (await g.post(json.dumps(bad), "orders")).status == 422
        assert (await g.post(json.dumps(good), "orders")).status == 201


async def test_of_two_who_create_a_topic_at_once_the_one_that_is_refused_has_changed_nothing():
    async with gateway() as g:
        texts = [typed_avro(), typed_avro({"name": "currency", "type": "string", "default": "EUR"})]
        new = [{"name": "orders", "schema": {"schema": text}} for text in texts]
        statuses = [response.status for response in await asyncio.gather(*(post(g, TOPICS, each) for each in new))]
        assert sorted(statuses) == [201, 409]
        assert [each.text for each in g.registry.registered["events.orders-value"]] == [texts[statuses.index(201)]]


async def test_what_is_not_given_is_as_the_settings_have_it():
    async with gateway(kafka_partitions=3, event_retention_hours=5) as g:
        assert (await post(g, TOPICS, {"name": "orders"})).status == 201
        spec = g.admin.specs["events.orders"]
        assert (spec.partitions, spec.configs["retention.ms"]) == (3, str(5 * 3_600_000))
        assert g.registry.registered["events.orders-value"][0].text == schemas.EVENT
        assert (await post(g, TOPICS, {"name": "for-ever", "retention_ms": -1})).status == 201
        assert g.admin.specs["events.for-ever"].configs["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"/name"}),
        ([], {""}),
        (7, {""}),
        ({"name": "Orders"}, {"/name"}),
        ({"name": "platform.dlq\n"}, {"/name"}),
        ({"name": "../platform.dlq"}, {"/name"}),
        ({"name": "a" * 129}, {"/name"}),
        ({"name": 7, "partitions": 0, "retention_hours": "1", "colour": 1}, {"/name", "/partitions", "/retention_hours", "/colour"}),
        ({"name": "a", "partitions": 1.5}, {"/partitions"}),
        ({"name": "a", "partitions": 1_001}, {"/partitions"}),
        ({"name": "a", "partitions": True}, {"/partitions"}),
        ({"name": "a", "retention_ms": 0}, {"/retention_ms"}),
        ({"name": "a", "retention_ms": -2}, {"/retention_ms"}),
        ({"name": "a", "retention_ms": 2**60}, {"/retention_ms"}),
        ({"name": "a", "retention_ms": 1, "retention_hours": 1}, {"/retention_hours"}),
        ({"name": "a", "schema": "{}"}, {"/schema"}),
        ({"name": "a", "schema": {}}, {"/schema/schema"}),
        ({"name": "a", "schema": {"type": "XML", "schema": 7, "x": 1}}, {"/schema/type", "/schema/schema", "/schema/x"}),
    ],
)  # fmt: skip
async def test_everything_that_is_wrong_with_a_new_topic_is_told_and_nothing_is_done(body, wrong):
    async with gateway() as g:
        response = await post(g, TOPICS, body)
        problem = await problem_of(response)
        assert (response.status, problem["code"]) == (422, "invalid_topic")
        assert {error["path"] for error in problem["errors"]} == wrong
        assert set(g.admin.specs) == {"events.iot", "platform.dlq"}
        assert g.registry.calls == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"x": 1, "schema": "\xff"}',
        b'{"x": 1, "schema": ' + b"[" * 10_000,
        b'{"x": 1, "schema": }',
    ],
)
async def test_what_is_no_json_is_refused(body):
    async with gateway() as g:
        for path in (TOPICS, f"{TOPICS}/iot/schema"):
            # 422 where it is another document already before it is none.
            assert (await post(g, path, body)).status in ({400, 422} if b'"x"' in body else {400})
        response = await g.client.post(TOPICS, data=b"{}", headers=g.headers(**{"Content-Type": "text/xml"}))
        assert response.status == 415


@pytest.mark.parametrize("name", ["iot", "platform_dlq"])
async def test_a_name_that_is_taken_is_refused_also_where_kafka_alone_confuses_it(name):
    async with gateway() as g:
        await post(g, TOPICS, {"name": "platform.dlq"})
        response = await post(g, TOPICS, {"name": name})
        assert (response.status, (await problem_of(response))["code"]) == (409, "topic_exists")


async def test_of_very_much_that_is_wrong_a_hundred_are_told():
    async with gateway() as g:
        body = {f"name{number}": 1 for number in range(50_000)}
        for path in ("/api/v1/topics", "/api/v1/topics/iot/schema"):
            response = await post(g, path, body)
            assert response.status == 422
            assert len((await problem_of(response))["errors"]) == 100
        query = "&".join(f"a{number}=1" for number in range(1_000))
        response = await g.client.get(f"/api/v1/topics?{query}", headers=g.headers())
        assert response.status == 400
        assert len((await problem_of(response))["errors"]) == 100


async def test_a_schema_without_the_envelope_creates_no_topic_and_names_the_fields():
    schema = json.loads(typed_avro())
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in {"timestamp", "value"}]
    async with gateway() as g:
        response = await post(g, TOPICS, {"name": "orders", "schema": {"schema": schema}})
        problem = await problem_of(response)
        assert (response.status, problem["code"]) == (422, "invalid_schema")
        assert {error["path"] for error in problem["errors"]} == {"/schema/schema/timestamp", "/schema/schema/value"}
        response = await post(g, f"{TOPICS}/iot/schema", {"schema": schema})
        assert {error["path"] for error in (await problem_of(response))["errors"]} == {
            "/schema/timestamp",
            "/schema/value",
        }
        assert "events.orders" not in g.admin.specs
        assert g.registry.calls == []


async def test_a_topic_is_described_with_its_partitions_and_versions(monkeypatch):
    async def two_kilobytes(_settings, topics):
        return {name: {0: 2_048} for name in topics}

    monkeypatch.setattr("streams.event_topics.partition_bytes", two_kilobytes)
    async with gateway() as g:
        described = await (await get(g, f"{TOPICS}/iot")).json()
        assert described["partitions"] == [
            {"partition": 0, "begin_offset": 0, "end_offset": 0, "bytes": 2_048},
            {"partition": 1, "begin_offset": 0, "end_offset": 1, "bytes": None},
        ]
        assert described["bytes"] == 2_048
        assert described["schema_versions"] == [{"version": 1, "id": SCHEMA_ID, "type": "AVRO"}]
        assert (await get(g, f"{TOPICS}/nothing")).status == 404
        assert (await get(g, f"{TOPICS}/platform.dlq")).status == 404


async def test_versions_are_listed_newest_first_and_a_new_one_is_used_at_once():
    async with gateway() as g:
        for type_, text in (("JSON", JSON_SCHEMA), ("JSON", JSON_SCHEMA | {"title": "orders"})):
            response = await post(g, f"{TOPICS}/iot/schema", {"type": type_, "schema": text})
            assert response.status == 201
        answer = await response.json()
        assert (answer["version"], json.loads(answer["schema"])["title"]) == (2, "orders")
        listed = await (await get(g, f"{TOPICS}/iot/schema")).json()
        assert [version["version"] for version in listed["versions"]] == [2, 1]
        assert [v["version"] for v in (await (await get(g, f"{TOPICS}/iot/schema?limit=1")).json())["versions"]] == [2]
        response = await g.post(json.dumps(EVENT))
        assert {error["path"] for error in (await problem_of(response))["errors"]} == {"/payload"}


async def test_an_incompatible_schema_is_refused_with_the_registry_s_reasons():
    async with gateway() as g:
        g.registry.incompatible = ["a at /a", "b at /b"]
        response = await post(g, f"{TOPICS}/iot/schema", {"type": "PROTOBUF", "schema": PROTO})
        problem = await problem_of(response)
        assert (response.status, problem["code"]) == (409, "incompatible_schema")
        assert problem["reasons"] == ["a at /a", "b at /b"]


@pytest.mark.parametrize("scopes", ["events:*", "events:write:*", "topics:read", "topics:admin:x", "admin"])
async def test_reading_and_changing_topics_takes_their_own_scopes(scopes):
    async with gateway() as g:
        for path in (TOPICS, f"{TOPICS}/iot/schema"):
            assert (await post(g, path, {"name": "a"}, scopes)).status == 403
            assert (await get(g, path, scopes)).status == (200 if scopes == "topics:read" else 403)
        assert (await get(g, f"{TOPICS}/iot/schema", "topics:admin")).status == 403
        assert (await get(g, TOPICS, "topics:*")).status == 200


async def test_what_is_away_is_told_as_such():
    async with gateway() as g:
        g.registry.fails = RegistryUnavailableError("away")
        response = await post(g, TOPICS, {"name": "a"})
        assert (response.status, (await problem_of(response))["code"]) == (503, "registry_unavailable")
        assert "events.a" not in g.admin.specs
        g.admin.fails = KafkaUnavailableError("away")
        assert (await problem_of(await get(g, TOPICS)))["code"] == "kafka_unavailable"


async def test_what_cannot_be_read_creates_no_topic():
    async with gateway(topic_creation="auto") as g:
        for path, body, content_type, status in (
            ("new", "{", "application/json", 400),
            ("new", "{}", "application/json", 422),
            ("new", json.dumps(EVENT), "text/plain", 415),
            ("new/batch", "", "application/x-ndjson", 400),
            ("new/batch", "[", "application/json", 400),
            ("new/batch", json.dumps(EVENT), "text/plain", 415),
        ):
            response = await g.client.post(
                f"/api/v1/events/{path}", data=body, headers=g.headers() | {"Content-Type": content_type}
            )
            assert response.status == status, await response.text()
            assert "events.new" not in g.admin.specs
        assert (await g.post(json.dumps(EVENT), "new")).status == 201
        assert "events.new" in g.admin.specs


async def test_a_first_event_creates_its_topic_only_where_settings_allow_and_up_to_the_limit():
    async with gateway(topic_creation="auto", max_topics=2) as g:
        assert (await g.post(json.dumps(EVENT), "new")).status == 201
        response = await g.post(json.dumps(EVENT), "newer")
        assert (response.status, (await problem_of(response))["code"]) == (409, "too_many_topics")
        assert (await post(g, TOPICS, {"name": "newer"})).status == 201
        assert (await g.post(json.dumps(EVENT), "newer")).status == 201
    async with gateway() as g:
        assert (await g.post(json.dumps(EVENT), "new")).status == 404
        # One that an administrator creates here is known here at once.
        await post(g, TOPICS, {"name": "new"})
        assert (await g.post(json.dumps(EVENT), "new")).status == 201

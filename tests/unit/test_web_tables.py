"""The table pages: lists, keys, one key; in JSON and HTML; and what other workers are asked."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from html import unescape
from html.parser import HTMLParser
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from streams.domain.errors import KafkaUnavailableError
from streams.domain.partitioning import partition_for
from streams.domain.state import TypeTotal
from streams.kafka.batching import Phase, Source
from tests.memory_tables import OWN_URL
from tests.web_gateway import gateway, problem_of
from web.negotiation import prefers_html
from web.read.workers import key_path

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
SCRIPT = "<script>alert('x')</script>\"&\u202e"
IOT0, IOT1 = Source("events.iot", 0), Source("events.iot", 1)


@asynccontextmanager
async def worker(**settings):
    """A gateway whose tables have both partitions of events.iot."""
    async with gateway(**settings) as g:
        tables = g.state.tables
        tables.partitions = {"events.iot": 2, "platform.dlq": 1}
        tables.assign(IOT0)
        tables.assign(IOT1)
        yield g, tables


async def get(g, path, status=200, accept="application/json", **headers):
    response = await g.client.get(
        URL("/api/v1/tables" + path, encoded=True), headers=g.headers("tables:read", Accept=accept, **headers)
    )
    assert response.status == status, await response.text()
    assert response.headers["Vary"] == "Accept"
    assert response.headers["Cache-Control"] == "no-store"
    if accept != "application/json":
        return await response.text()
    return await response.json() if status == 200 else await problem_of(response)


def key_in(partition, count=2):
    return next(f"u{i}" for i in range(100) if partition_for(f"u{i}".encode(), count) == partition)


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "html"),
        [
            (None, False),
            ("", False),
            ("*/*", False),
            ("application/json", False),
            ("text/html", True),
            (BROWSER, True),
            ("TEXT/HTML", True),
            ("text/*", True),
            ("text/html, application/json", False),
            ("text/html;q=0.9, application/json", False),
            ("text/html, application/json;q=0.9", True),
            ("application/json;q=0, */*", True),
            ("text/html;q=0, */*", False),
            ("text/*;q=0.1, text/html;q=0.9, application/json;q=0.5", True),
            ("text/html;level=1, */*;q=0.1", False),
            ("text/html;q=x, application/json;q=0.1", False),
            ("image/png", False),
            (",;,q=1,,text/html", True),
        ],
    )
    def test_the_form_that_is_wanted_more_wins_and_json_where_neither(self, accept, html):
        assert prefers_html(accept) is html

    async def test_the_same_route_answers_in_both_forms(self):
        async with worker() as (g, _):
            for path in ("", "/state"):
                assert isinstance(await get(g, path), dict)
                assert (await get(g, path, accept=BROWSER)).startswith("<!doctype html>")

    async def test_an_error_is_a_page_for_a_browser_with_the_same_status(self):
        async with worker() as (g, _):
            page = await get(g, "/nothing", 404, accept=BROWSER)
            assert "404: No such table" in page
            assert (await get(g, "/nothing", 404))["code"] == "unknown_table"


class TestScopes:
    @pytest.mark.parametrize("path", ["", "/state", "/state/iot%2Fu", "/state/iot/u/v"])
    async def test_only_tables_read_opens_them(self, path):
        async with worker() as (g, _):
            for scopes, status in (("events:*", 403), ("tables:write", 403), ("admin", 403)):
                response = await g.client.get("/api/v1/tables" + path, headers=g.headers(scopes))
                assert response.status == status
            assert (await g.client.get("/api/v1/tables" + path)).status == 401

    async def test_head_is_answered_without_a_body(self):
        async with worker() as (g, _):
            response = await g.client.head("/api/v1/tables/state", headers=g.headers("tables:*"))
            assert (response.status, await response.read()) == (200, b"")


class TestList:
    async def test_it_says_what_is_here_what_is_being_restored_and_who_has_the_rest(self):
        async with worker() as (g, tables):
            tables.put(0, "a", 7)
            tables.put(0, "b", 8)
            tables.assign(IOT1, Phase.RESTORING, restoring=500, committed=None)
            tables.owners = {OWN_URL: {"events.iot": [0, 1]}, "http://other:1": {"events.iot": [3, 2], "x": [0]}}
            answer = await get(g, "")
        assert answer["worker"] == OWN_URL
        assert [table["name"] for table in answer["tables"]] == [
            "state",
            "totals",
            "windows",
            "newest-windows",
            "dead-letters",
        ]
        assert answer["tables"][0] == {
            "name": "state",
            "help": "state by key",
            "rows": 2,
            "state": "restoring",
            "changelog": "test-state-changelog",
            "changelog_lag": 500,
            "parts": [
                {
                    "topic": "events.iot",
                    "partition": 0,
                    "phase": "running",
                    "rows": 2,
                    "changelog_offset": 9,
                    "changelog_lag": 0,
                    "committed": 10,
                },
                {
                    "topic": "events.iot",
                    "partition": 1,
                    "phase": "restoring",
                    "rows": None,
                    "changelog_offset": None,
                    "changelog_lag": 500,
                    "committed": None,
                },
            ],
            "elsewhere": [
                {
                    "url": "http://other:1",
                    "partitions": [{"topic": "events.iot", "partition": 2}, {"topic": "events.iot", "partition": 3}],
                }
            ],
        }
        assert answer["tables"][-1]["state"] == "ready"

    async def test_while_partitions_are_reassigned_nothing_is_ready(self):
        async with worker() as (g, tables):
            tables.waiting = "partitions are being reassigned"
            assert {table["state"] for table in (await get(g, ""))["tables"]} == {"waiting"}


class TestKeys:
    async def test_pages_follow_each_other_over_all_parts(self):
        async with worker() as (g, tables):
            names = [f"k{i:02d}" for i in range(25)]
            for i, name in enumerate(names):
                tables.put(i % 2, name, offset=i)
            found, query = [], "limit=10&prefix=iot/k"
            while query:
                answer = await get(g, f"/state?{query}")
                found += answer["keys"]
                query = answer["after"] and f"limit=10&prefix=iot/k&after={answer['after']}"
        assert [entry["key"] for entry in found] == [f"iot/{name}" for name in names]
        assert found[3] == {"key": "iot/k03", "topic": "events.iot", "partition": 1, "offset": 3}

    async def test_the_prefix_is_taken_as_it_is_and_an_empty_one_is_none(self):
        async with worker() as (g, tables):
            for name in ("a%b", "a.b", "ä/ö", "z"):
                tables.put(0, name)
            assert len((await get(g, "/state?prefix="))["keys"]) == 4
            for prefix, keys in (("iot/a%", ["iot/a%b"]), ("iot/ä/", ["iot/ä/ö"]), ("iot/.", [])):
                answer = await get(g, f"/state?prefix={quote(prefix)}")
                assert ([entry["key"] for entry in answer["keys"]], answer["after"]) == (keys, None)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ("limit=0", "?limit"),
            ("limit=1001", "?limit"),
            ("after=x", "?after"),
            ("after=%20", "?after"),
            ("token=x", "?token"),
            ("prefix=" + "x" * 513, "?prefix"),
        ],
    )
    async def test_wrong_parameters_are_told(self, query, path):
        async with worker() as (g, _):
            assert [error["path"] for error in (await get(g, f"/state?{query}", 400))["errors"]] == [path]

    @pytest.mark.parametrize("phase", [Phase.OPENING, Phase.RESTORING, Phase.PARKED, Phase.FENCED])
    async def test_half_a_table_is_not_shown(self, phase):
        async with worker() as (g, tables):
            tables.put(1, "a")
            tables.assign(IOT1, phase)
            problem = await get(g, "/state", 503)
            assert (problem["code"], problem["retriable"]) == ("unavailable", True)
            assert (await get(g, "/dead-letters"))["keys"] == []

    async def test_a_part_that_leaves_while_the_page_is_made_spoils_it(self, monkeypatch):
        async with worker() as (g, tables):

            def leaves(*_, **__):
                tables.state.parts.pop(IOT1, None)
                del tables.statuses[IOT1]
                raise ZeroDivisionError("closed")

            monkeypatch.setattr("web.browse.tables.page", leaves)
            assert (await get(g, "/state", 503))["code"] == "unavailable"


class TestKey:
    @pytest.mark.parametrize(
        "key",
        [
            "user-1",
            "a/b//c",
            "%",
            "%2F",
            "100%25",
            "a b+c",
            "ä/€/\U0001f600",
            "..",
            "a/../b",
            "\n\r\t",
            "?#&=;",
            "\x00",
        ],
    )
    async def test_any_key_is_found_under_its_address(self, key):
        async with worker() as (g, tables):
            tables.put(partition_for(key.encode(), 2), key, offset=3)
            path = key_path("state", f"iot/{key}").removeprefix("/api/v1/tables")
            answer = await get(g, path)
            assert (answer["table"], answer["key"]) == ("state", f"iot/{key}")
            [row] = answer["rows"]
            assert row["value"]["key"] == key
            assert (row["topic"], row["partition"]) == ("events.iot", partition_for(key.encode(), 2))
            assert (row["offset"], row["worker"]) == (3, OWN_URL)

    async def test_slashes_may_stand_as_they_are(self):
        async with worker() as (g, tables):
            tables.put(partition_for(b"a/b", 2), "a/b")
            assert (await get(g, "/state/iot/a/b"))["key"] == "iot/a/b"

    async def test_a_path_that_is_not_utf_8_is_refused(self):
        async with worker() as (g, _):
            assert (await get(g, "/state/iot%2F%FF", 400))["code"] == "invalid_request"

    @pytest.mark.parametrize("path", ["/state/iot%2Fnobody", "/state/nosuchtopic%2Fa", "/state/x", "/totals/iot%2Fx"])
    async def test_a_key_that_nobody_has_is_unknown(self, path):
        async with worker() as (g, _):
            problem = await get(g, path, 404)
            assert (problem["code"], problem["retriable"]) == ("unknown_key", False)

    async def test_every_row_of_a_key_is_told(self):
        async with worker() as (g, tables):
            for source in (IOT1, IOT0):
                tables.totals.parts[source].apply({"iot/a": TypeTotal("iot", "a", 5, 0, source.partition)}, 1)
            rows = (await get(g, "/totals/iot%2Fa"))["rows"]
        assert [(row["partition"], row["offset"], row["value"]["count"]) for row in rows] == [(0, 0, 5), (1, 1, 5)]

    async def test_a_row_from_before_the_topic_was_given_more_partitions_is_still_found(self):
        async with worker() as (g, tables):
            key = key_in(0)
            tables.put(1, key)
            assert [row["partition"] for row in (await get(g, f"/state/iot%2F{key}"))["rows"]] == [1]

    @pytest.mark.parametrize("phase", [Phase.OPENING, Phase.RESTORING, Phase.PARKED, Phase.FENCED])
    async def test_where_a_part_is_not_ready_its_keys_are_not_called_unknown(self, phase):
        async with worker() as (g, tables):
            here, there = key_in(0), key_in(1)
            tables.put(0, here)
            tables.put(1, there)
            tables.assign(IOT1, phase)
            assert (await get(g, f"/state/iot%2F{there}", 503))["code"] == "unavailable"
            assert (await get(g, "/state/iot%2Fnobody", 503))["code"] == "unavailable"
            # Whoever can be told the truth is.
            assert (await get(g, f"/state/iot%2F{here}"))["rows"]

    async def test_a_partition_that_nobody_has_yet_is_waited_for(self):
        async with worker() as (g, tables):
            tables.partitions = {"events.iot": 3}
            response = await g.client.get("/api/v1/tables/state/iot%2Fnobody", headers=g.headers())
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1

    async def test_what_was_known_of_partitions_serves_while_kafka_is_away(self, monkeypatch):
        monkeypatch.setattr("web.read.placement._COUNTS_TTL_S", 0.0)
        async with worker() as (g, tables):
            tables.fails = KafkaUnavailableError("10.0.0.7")
            assert (await get(g, "/state/iot%2Fnobody", 503))["code"] == "kafka_unavailable"
            tables.fails = None
            await get(g, "/state/iot%2Fnobody", 404)
            tables.fails = KafkaUnavailableError("10.0.0.7")
            await get(g, "/state/iot%2Fnobody", 404)

    async def test_a_worker_that_starts_says_so(self):
        async with worker() as (g, _):
            g.state.waiting_for = "Kafka"
            for path in ("", "/state", "/state/a"):
                assert (await get(g, path, 503))["code"] == "unavailable"


@asynccontextmanager
async def two_workers():
    """The first has partition 0, the second partition 1, and each knows that."""
    async with gateway() as a, gateway() as b:
        urls = [str(one.client.make_url("/")).rstrip("/") for one in (a, b)]
        for mine, one in enumerate((a, b)):
            tables = one.state.tables
            tables.partitions = {"events.iot": 2}
            tables.assign(Source("events.iot", mine))
            other = urls[1 - mine]
            tables.owners = {OWN_URL: {"events.iot": [mine]}, other: {"events.iot": [1 - mine]}}
        yield a, b


@asynccontextmanager
async def stand_in(handler):
    """Something at the address of another worker."""
    application = web.Application()
    application.router.add_get("/{tail:.*}", handler)
    async with TestServer(application) as server:
        yield str(server.make_url("/")).rstrip("/")


class TestOtherWorkers:
    async def test_a_key_is_answered_alike_by_each(self):
        async with two_workers() as (a, b):
            for i in range(20):
                owner = partition_for(f"ä/{i}".encode(), 2)
                (a, b)[owner].state.tables.put(owner, f"ä/{i}", offset=i)
            for i in range(20):
                path = f"/state/{quote(f'iot/ä/{i}', safe='')}"
                assert (await get(a, path)) == (await get(b, path))

    async def test_rows_in_several_workers_come_together(self):
        async with two_workers() as (a, b):
            for number, one in enumerate((a, b)):
                one.state.tables.totals.parts[Source("events.iot", number)].apply(
                    {"iot/x": TypeTotal("iot", "x", number + 1, 0, 9)}, 1
                )
            for one in (a, b):
                answer = await get(one, "/totals/iot%2Fx")
                assert [(row["partition"], row["value"]["count"]) for row in answer["rows"]] == [(0, 1), (1, 2)]
            assert (await get(a, "/totals/iot%2Fy", 404))["code"] == "unknown_key"

    @pytest.mark.parametrize("phase", [Phase.RESTORING, Phase.PARKED, None])
    async def test_nothing_is_unknown_while_the_other_is_not_ready(self, phase):
        async with two_workers() as (a, b):
            if phase is None:
                b.state.tables.statuses.clear()
            else:
                b.state.tables.assign(IOT1, phase)
            assert (await get(a, f"/state/iot%2F{key_in(1)}", 503))["code"] == "unavailable"

    async def test_a_routed_request_goes_no_further(self):
        async with two_workers() as (a, b):
            b.state.tables.put(1, key_in(1))
            answer = await get(a, f"/state/iot%2F{key_in(1)}", **{"X-Streams-Routed": "1"})
            assert answer == {"rows": [], "held": [["events.iot", 0]]}

    async def test_the_other_decides_by_the_caller_s_own_token(self):
        seen = []

        async def look(request):
            seen.append(request)
            return web.json_response({"rows": [], "held": [["events.iot", 1]]})

        async with worker() as (g, tables), stand_in(look) as url:
            del tables.statuses[IOT1]
            tables.owners = {url + "/base/": {"events.iot": [1]}}
            await get(g, f"/state/iot%2F{key_in(1)}", 404, Cookie="a=b")
            [request] = seen
            assert request.headers["Authorization"] == g.headers("tables:read")["Authorization"]
            assert request.headers["X-Streams-Routed"] == "1"
            assert request.rel_url.raw_path == f"/base/api/v1/tables/state/iot%2F{key_in(1)}"
            assert "Cookie" not in request.headers

    @pytest.mark.parametrize(
        ("answer", "status", "code"),
        [
            (lambda: web.Response(status=503), 503, "worker_unavailable"),
            (lambda: web.Response(status=401), 502, "worker_failed"),
            (lambda: web.Response(status=403), 502, "worker_failed"),
            (lambda: web.Response(status=404), 502, "worker_failed"),
            (lambda: web.Response(status=500), 502, "worker_failed"),
            (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), 502, "worker_failed"),
            (lambda: web.Response(text="<html>"), 502, "worker_failed"),
            (lambda: web.json_response({"rows": []}), 502, "worker_failed"),
            (
                lambda: web.Response(body=b'{"rows": [], "held": [["events.iot", 1]]}' + b" " * 17_000_000),
                502,
                "worker_failed",
            ),
        ],
    )
    async def test_its_errors_are_told_as_such(self, answer, status, code):
        async def fail(_):
            return answer()

        async with worker() as (g, tables), stand_in(fail) as url:
            del tables.statuses[IOT1]
            tables.owners = {url: {"events.iot": [1]}}
            response = await g.client.get(f"/api/v1/tables/state/iot%2F{key_in(1)}", headers=g.headers())
            assert response.status == status
            problem = await problem_of(response)
            assert (problem["code"], problem["retriable"]) == (code, True)
            assert int(response.headers["Retry-After"]) >= 1
            assert url not in problem["detail"]

    async def test_one_that_is_away_or_slow_is_given_up_in_time(self):
        async def sleep(_):
            await asyncio.sleep(60)

        async with worker(request_deadline_s=1) as (g, tables), stand_in(sleep) as slow:
            del tables.statuses[IOT1]
            for url in (slow, "http://127.0.0.1:9"):
                tables.owners = {url: {"events.iot": [1]}}
                async with asyncio.timeout(2):
                    problem = await get(g, f"/state/iot%2F{key_in(1)}", 503)
                assert problem["code"] == "worker_unavailable"

    async def test_rows_of_other_partitions_than_asked_for_are_not_believed(self):
        async def lie(_):
            row = {"topic": "events.iot", "partition": 0, "offset": 1, "value": {}, "worker": "x"}
            return web.json_response({"rows": [row], "held": [["events.iot", 1]]})

        async with worker() as (g, tables), stand_in(lie) as url:
            del tables.statuses[IOT1]
            tables.owners = {url: {"events.iot": [1]}}
            await get(g, f"/state/iot%2F{key_in(1)}", 404)


class Links(HTMLParser):
    """Every address in a page, and every element."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action", "formaction")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]


class TestPages:
    async def test_what_strangers_wrote_is_text_on_every_page(self):
        async with worker() as (g, tables):
            key = SCRIPT + "/" + "x"
            partition = partition_for(key.encode(), 2)
            tables.put(partition, key)
            tables.owners = {'http://other:1/<b>"': {"events.<i>": [0]}}
            path = key_path("state", f"iot/{key}").removeprefix("/api/v1/tables")
            for address in ("", "/state", f"/state?prefix={quote(f'iot/{SCRIPT}')}", path):
                page = await get(g, address, accept=BROWSER)
                assert "script" not in Links(page).tags
                assert not {"b", "i"} & set(Links(page).tags)
                assert "<script" not in page.lower()
            assert SCRIPT in unescape(page)
            for address in (f"/state/{quote(SCRIPT)}", f"/{quote('<script>')}"):
                assert "<script" not in (await get(g, address, 404, accept=BROWSER)).lower()

    async def test_a_page_loads_nothing_and_runs_nothing(self):
        async with worker() as (g, tables):
            tables.put(0, key_in(0))
            for path in ("/api/v1/tables", "/api/v1/tables/state", f"/api/v1/tables/state/iot%2F{key_in(0)}"):
                response = await g.client.get(path, headers=g.headers(Accept=BROWSER))
                assert response.headers["Content-Type"] == "text/html; charset=utf-8"
                policy = response.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; style-src 'sha256-")
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                page = await response.text()
                assert not {"script", "img", "iframe", "link", "object", "base"} & set(Links(page).tags)
                assert "width=device-width" in page
                assert "color-scheme: light dark" in page

    async def test_links_lead_from_tables_to_keys_to_one_key_and_on(self):
        async with worker() as (g, tables):
            for i in range(5):
                tables.put(i % 2, f"ä/{i}&b", offset=i)
            tables.owners = {"http://other:1": {"events.iot": [2]}}
            assert "/api/v1/tables/state" in Links(await get(g, "", accept=BROWSER)).addresses
            first = Links(await get(g, "/state?limit=2&prefix=iot/", accept=BROWSER)).addresses
            assert "http://other:1/api/v1/tables/state?prefix=iot%2F" in first
            [following] = [address for address in first if "after=" in address]
            second = await get(g, following.removeprefix("/api/v1/tables"), accept=BROWSER)
            assert "iot/ä/2&amp;b" in second
            tables.put(partition_for("ä/2&b".encode(), 2), "ä/2&b", offset=2)
            [one] = [address for address in Links(second).addresses if "2%26b" in address]
            assert "&quot;last_value&quot;: 2.5" in await get(g, one.removeprefix("/api/v1/tables"), accept=BROWSER)
            assert re.search(r'<form action="/api/v1/tables/state">', second)


async def test_metrics_tell_how_agents_and_tables_stand():
    async with worker() as (g, tables):
        tables.put(0, "a")
        tables.assign(IOT0, committed=90, end=100)
        tables.counts[IOT0] = (3, 50)
        tables.assign(IOT1, Phase.RESTORING, restoring=5, committed=None)
        tables.assign(Source("events.iot", 2))
        tables.by_reason = {("invalid_event", "platform.ingress"): 4, ('a"b\n\\', "x"): 1}
        page = await (await g.client.get("/metrics")).text()
    labels = 'partition="0",pipeline="state",topic="events.iot"'
    for line in (
        f"streams_agent_lag{{{labels}}} 10",
        f"streams_agent_records_total{{{labels}}} 50",
        f"streams_agent_transactions_total{{{labels}}} 3",
        'streams_agent_phase{partition="1",phase="restoring",pipeline="state",topic="events.iot"} 1',
        'streams_table_rows{table="state"} 1',
        'streams_table_restoring{table="totals"} 1',
        'streams_table_restoring{table="dead-letters"} 0',
        'streams_dead_letters{reason="invalid_event",source_topic="platform.ingress"} 4',
        r'streams_dead_letters{reason="a\"b\n\\",source_topic="x"} 1',
    ):
        assert line in page.splitlines(), page
    assert 'streams_agent_lag{partition="1"' not in page


async def test_the_labels_of_dead_letters_are_bounded():
    async with worker() as (g, tables):
        tables.by_reason = {(f"reason-{i}", "t"): 1_000 - i for i in range(500)}
        page = await (await g.client.get("/metrics")).text()
    lines = [line for line in page.splitlines() if line.startswith("streams_dead_letters{")]
    assert len(lines) == 201
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == sum(range(501, 1_001))


@pytest.mark.parametrize(
    ("phase", "values", "detail"),
    [
        (Phase.HELD, {}, "events.iot[0] is held"),
        (Phase.FENCED, {}, "events.iot[0] is fenced"),
        (Phase.RETRYING, {"still_s": 100.0}, "events.iot[0] is retrying"),
        (Phase.RUNNING, {"still_s": 100.0, "end": 30}, "events.iot[0] stands still for 100 s, 20 offsets behind"),
        (Phase.RUNNING, {"still_s": 100.0}, None),
        (Phase.RETRYING, {"still_s": 1.0}, None),
    ],
)
async def test_a_partition_that_does_not_go_on_makes_the_worker_not_ready(phase, values, detail):
    async with worker() as (g, tables):
        tables.assign(IOT0, phase, **({"error": "10.0.0.7 said no"} | values))
        response = await g.client.get("/health/ready")
        check = (await response.json())["checks"]["agents"]
        assert (response.status, check) == (
            (200, {"ok": True}) if detail is None else (503, {"ok": False, "detail": detail})
        )


def test_aiohttp_keeps_a_path_as_it_was_sent():
    """What the decoding of keys stands on."""
    assert URL("http://h/a%2Fb%FF%25", encoded=True).raw_path == "/a%2Fb%FF%25"
    assert aiohttp.hdrs.VARY == "Vary"

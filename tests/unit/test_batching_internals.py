"""The guard: what the engine relies on inside of Faust and aiokafka is what it was written for, and is in one place."""

from __future__ import annotations

import ast
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import aiokafka.consumer.consumer
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.transport.conductor import Conductor

from streams.kafka.batching import engine, internals, subscription, transport
from streams.kafka.batching.internals import PARTS, digest

ROOT = Path(__file__).parents[2]

DIGESTS: Final = {
    "AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f",
    "AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1",
    "AIOKafkaConsumerThread._ensure_consumer": "ff4a4c693b7e",
    "AIOKafkaConsumerThread.seek_to_committed": "775ab0adc4b0",
    "AIOKafkaConsumerThread.subscribe": "74f90b8c8cbc",
    "Consumer._new_consumer_thread": "0870ec53dea7",
    "Consumer._to_message": "7c24f6511b2f",
    "ThreadDelegateConsumer._getmany": "f9d47aa9010b",
    "Consumer.getmany": "4b168d84882a",
    "Consumer._wait_next_records": "6218e1969a63",
    "Consumer._drain_messages": "44a2500309e8",
    "Consumer.ack": "5fcf41cf4515",
    "Consumer.perform_seek": "0e8c130ff4b0",
    "Consumer.on_partitions_revoked": "d04b7ae72c6f",
    "Consumer.on_partitions_assigned": "29ce96596f05",
    "Conductor._subscriber": "2a7908583404",
    "Conductor._update_indices": "619b3247b96a",
    "Conductor._flag_changes": "43eb94e00483",
    "Fetcher.fetched_records": "be4348896b9b",
    "Fetcher.seek_to": "f0ba6aba6c22",
    "FetchResult.getall": "3e717e30de50",
    "FetchResult.check_assignment": "b5340df67e3f",
    "PartitionRecords._unpack_records": "b803e6d46480",
    "AIOKafkaProducer.stop": "43ef97147111",
    "Sender.close": "f60b3d023d25",
    "AIOKafkaConsumer.start": "2f1ba7044332",
    "AIOKafkaConsumer.seek": "a9430f1f3b9a",
    "AIOKafkaConsumer.highwater": "044275efc968",
    "TopicPartitionState.seek": "c20b56d7ba7b",
    "TopicPartitionState.consumed_to": "c7b8f0f99ce9",
    "BatchBuilder.append": "657d76f55157",
    "MessageAccumulator.add_batch": "5ed1c5b1367a",
}

WHAT_TO_DO: Final = """
{changed} is not what streams.kafka.batching was written for. Before this table is changed:
1. read what has changed, say by `pip download` of both versions and `diff -r`;
2. compare it with what the module that uses it says about it (grep for the name in streams/kafka/batching);
3. run the tests with a broker: tests/integration;
4. `python -m streams.kafka.batching.internals` prints the table anew.
"""


@pytest.mark.parametrize("name", sorted(PARTS.keys() | DIGESTS.keys()))
def test_what_the_engine_relies_on_is_as_it_was_read(name):
    assert name in DIGESTS, f"{name} has no digest here: `python -m streams.kafka.batching.internals` prints it"
    assert name in PARTS, f"{name} is relied on no more: remove it here"
    assert digest(PARTS[name]) == DIGESTS[name], WHAT_TO_DO.format(changed=name)


# --- one place

ALLOWED: Final = {
    ("streams/faust_app.py", "os._exit"): "Python's own: it ends a process that cannot stop",
    ("streams/kafka/errors.py", "ConfluentError._AUTHENTICATION"): "confluent-kafka publishes librdkafka's codes so",
    ("streams/kafka/consumer.py", "consumer._client"): "aiokafka learns of a topic without a group in no other way",
    (
        "streams/kafka/offsets.py",
        "self._consumer._client",
    ): "aiokafka learns of a topic without a group in no other way",
    ("web/installation.py", "driver._runner"): "Faust's web driver takes no runner of ours otherwise",
    ("streams/worker.py", "command._loglevel"): "Faust's option -l has no default of ours otherwise",
}
FOLDERS: Final = ("streams", "agents", "web", "tables", "sinks")


def private_accesses(path: Path) -> Iterator[str]:
    """`x._y` where x is not the object itself, and `getattr(x, "_y")`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of = node.value
            is_own = isinstance(of, ast.Name) and of.id in {"self", "cls"}
            is_super = isinstance(of, ast.Call) and ast.unparse(of.func) == "super"
            if not is_own and not is_super:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr"} and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                yield ast.unparse(node)


def test_private_parts_of_libraries_are_touched_in_one_place_alone():
    found = {
        (path.relative_to(ROOT).as_posix(), access)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.name.endswith("_pb2.py") and path != Path(internals.__file__)
        for access in private_accesses(path)
    }
    new = found - ALLOWED.keys()
    assert not new, "move these into streams/kafka/batching/internals.py, or say in ALLOWED why not"
    gone = ALLOWED.keys() - found
    assert not gone, "these are not touched any more: remove them from ALLOWED"


def test_the_scan_finds_what_it_looks_for(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("x._a\nself._b\nself.y._c\nsuper()._d()\nf()._e\ngetattr(z, '_f')\nx.__class__\ncls._g\n")
    assert sorted(private_accesses(file)) == ["f()._e", "getattr(z, '_f')", "self.y._c", "x._a"]


INHERITED: Final = {"_thread", "_consumer"}
"""Attributes, with types that mypy knows of us: where the consumer keeps its thread, and that its consumer of aiokafka."""
VENDORS: Final = ("faust", "aiokafka", "mode")


def test_every_method_of_theirs_that_is_overridden_or_called_from_within_is_guarded():
    guarded = {name.rpartition(".")[2] for name in PARTS}
    seen = set()
    for module in (transport, engine, subscription):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in (n for n in tree.body if isinstance(n, ast.ClassDef)):
            cls = getattr(module, node.name)
            theirs = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in VENDORS]
            if not theirs:
                continue
            defined = {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
            overridden = {n for n in defined if n[:2] != "__" and any(n in vars(base) for base in theirs)}
            own = set(vars(cls)) | {
                n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            }
            called = {
                n.attr
                for n in ast.walk(node)
                if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self" and n.attr[0] == "_"
            } - own
            assert (overridden | called) - guarded - INHERITED == set(), node.name
            seen |= overridden | called
    assert {"_fetch_records", "_getmany", "_to_message", "_ensure_consumer", "on_partitions_revoked"} <= seen


# --- behaviour

TP = TopicPartition("in", 0)


def packed(first: int, number: int, producer: int) -> bytes:
    """A transactional batch, as a broker returns it."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, 0, 10_000)
    for offset in range(number):
        builder.append(offset, 0, b"k", b"%d" % (first + offset), [])
    data = bytes(builder.build())
    return struct.pack(">q", first) + data[8:]


def fetched(data: bytes, aborted: list[tuple[int, int]]) -> tuple[Fetcher, SubscriptionState, AIOKafkaConsumer]:
    """A fetcher that has this fetch at hand, for a partition that is read from its beginning."""
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([TP])
    assigned = subscriptions.subscription.assignment
    assigned.state_value(TP).seek(0)
    records = PartitionRecords(TP, MemoryRecords(data), aborted, 0, None, None, True, READ_COMMITTED)
    fetcher = object.__new__(Fetcher)
    made = cast("Any", fetcher)
    made._subscriptions, made._wait_consume_future = subscriptions, None
    made._records = {TP: FetchResult(TP, assignment=assigned, partition_records=records, backoff=0)}
    made._notify = lambda _future: None
    made._fetch_task = SimpleNamespace(done=lambda: True)  # for its destructor
    made._closed = True
    return fetcher, subscriptions, cast("AIOKafkaConsumer", SimpleNamespace(_subscription=subscriptions))


def at_once(fetcher: Fetcher, **more: Any) -> dict[Any, list[Any]]:
    """What a call returns that never gives way to another task."""
    call = fetcher.fetched_records([TP], 0, **more)
    with pytest.raises(StopIteration) as done:
        call.send(None)
    return cast("dict[Any, list[Any]]", done.value.value)


async def test_a_fetch_is_drained_and_its_position_moved_in_one_step():
    """With what was aborted in its midst and at its end: the position is behind that, the records are not."""
    data = packed(0, 3, 1) + packed(3, 2, 2) + packed(5, 2, 1) + packed(7, 4, 2)
    fetcher, _, consumer = fetched(data, [(2, 3)])
    records = at_once(fetcher)[TP]
    assert [record.offset for record in records] == [0, 1, 2, 5, 6]
    assert internals.position(consumer, TP) == 11


async def test_the_position_moves_without_records_over_what_was_aborted():
    fetcher, _, consumer = fetched(packed(0, 3, 2), [(2, 0)])
    assert at_once(fetcher) == {}
    assert internals.position(consumer, TP) == 3


async def test_a_part_of_a_fetch_leaves_the_position_behind_its_last_record():
    fetcher, _, consumer = fetched(packed(0, 5, 1), [])
    assert [record.offset for record in at_once(fetcher, max_records=2)[TP]] == [0, 1]
    assert internals.position(consumer, TP) == 2
    assert [record.offset for record in at_once(fetcher)[TP]] == [2, 3, 4]


async def test_a_fetch_from_before_a_seek_is_thrown_away():
    fetcher, subscriptions, consumer = fetched(packed(0, 5, 1), [])
    subscriptions.seek(TP, 3)
    assert at_once(fetcher) == {}
    assert internals.position(consumer, TP) == 3


async def test_a_partition_that_is_not_assigned_has_no_position_and_no_end():
    _, subscriptions, consumer = fetched(b"", [])
    assert internals.position(consumer, TopicPartition("in", 1)) is None
    assert internals.highwater(consumer, TopicPartition("in", 1)) is None
    assert internals.highwater(consumer, TP) is None
    subscriptions.unsubscribe()
    assert internals.position(consumer, TP) is None


async def test_isolation_and_patience_reach_the_fetcher(monkeypatch):
    """Set on a consumer that has not started; what it starts then has them."""
    made: dict[str, Any] = {}

    class Stop(Exception):  # noqa: N818
        pass

    def fetcher(*_: Any, **options: Any) -> None:
        made.update(options)
        raise Stop

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(aiokafka.consumer.consumer, "Fetcher", fetcher)
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    monkeypatch.setattr(consumer._client, "bootstrap", nothing)
    monkeypatch.setattr(consumer, "_wait_topics", nothing, raising=False)
    internals.read_committed(consumer)
    internals.wait_at_most(consumer, 123)
    with pytest.raises(Stop):
        await consumer.start()
    assert (made["isolation_level"], made["fetch_max_wait_ms"]) == ("read_committed", 123)
    await consumer._client.close()
    consumer._closed = True


def test_a_resubscription_is_asked_for_where_a_topic_is_new_and_only_there():
    asked = []
    conductor = cast(
        "Conductor",
        SimpleNamespace(
            _topic_name_index={"a": set()},
            _resubscribe_sleep_lock_seconds=45.0,
            _flag_changes=lambda: asked.append(1),
        ),
    )
    internals.resubscribe(conductor, ["a"])
    assert asked == []
    internals.resubscribe(conductor, ["a", "b"])
    assert (asked, cast("Any", conductor)._resubscribe_sleep_lock_seconds) == ([1], 1.0)
    assert hasattr(Conductor, "_resubscribe_sleep_lock_seconds")


def test_the_import_contract_of_the_engine_names_everything_else_of_ours():
    """So that a module which comes later is not forgotten there."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [contract] = [c for c in contracts if c.get("source_modules") == ["streams.kafka.batching"]]
    ours = {f"streams.{path.stem}" for path in (ROOT / "streams").iterdir() if path.name[0] not in "_."} - {
        "streams.kafka"
    }
    ours |= {f"streams.kafka.{path.stem}" for path in (ROOT / "streams/kafka").iterdir() if path.name[0] not in "_."}
    ours -= {"streams.kafka.batching"}
    ours |= {"agents", "deploy", "flink", "sinks", "tables", "web"}
    assert ours <= set(contract["forbidden_modules"])

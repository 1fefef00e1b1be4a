"""streams/*.toml: what they say, what the server makes of it, what may be changed."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.runtime import assets
from coord.wire import subjects
from tests.support.waiting import until

DIRECTORY = assets.streams_dir()


@pytest.fixture
async def conn(start_nats):
    server = await start_nats()
    connection = await Connection.open(NatsConfig(urls=(server.url,)), name="test")
    yield connection
    await connection.close()


@pytest.mark.parametrize("profile", ["production", "development"])
async def test_the_strict_server_takes_all_of_it_and_a_second_apply_changes_nothing(conn, profile) -> None:
    wanted = topology.load(DIRECTORY, profile)
    changes = await topology.apply(conn, wanted)
    assert {c.action for c in changes} == {"create"}
    assert [c.label for c in changes] == [s.label for s in wanted.specs]
    assert await topology.plan(conn, wanted) == []
    assert await topology.apply(conn, wanted) == []


def test_files_agree_with_the_code() -> None:
    wanted = topology.load(DIRECTORY)
    for spec in wanted.streams:
        assert spec.config["duplicate_window"] == limits.DUPLICATE_WINDOW_S * 1e9, spec.label
    assert wanted.get("EVENTS").config["max_msg_size"] >= limits.EVENT_BYTES_MAX + limits.HEADERS_BYTES_MAX
    assert wanted.get("TELEMETRY").config["max_msg_size"] >= limits.FRAME_MESSAGE_BYTES_MAX + limits.HEADERS_BYTES_MAX
    for stream in ("EVENTS", "TELEMETRY"):
        consumers = [s for s in wanted.specs if s.stream == stream and (s.consumer or "").startswith("projector-")]
        assert [s.config["filter_subject"] for s in consumers] == [
            subjects.partition_filter(stream, p) for p in range(limits.PARTITIONS)
        ]
        for spec in consumers:
            assert spec.config["priority_timeout"] == limits.PIN_TTL_S * 1e9
            # Nothing bounds what is delivered but what was asked for, and nothing is sent again by itself.
            assert spec.config["ack_policy"] == "none"
        for profile in ("development", "cluster"):
            other = topology.load(DIRECTORY, profile)
            theirs = [s for s in other.specs if s.stream == stream and (s.consumer or "").startswith("projector-")]
            assert theirs == consumers
    deciders = [s for s in wanted.specs if (s.consumer or "").startswith("decider-")]
    assert len(deciders) == limits.PARTITIONS
    assert all(s.config["priority_timeout"] == limits.PIN_TTL_S * 1e9 for s in deciders)
    log = wanted.get("EVENTS").config
    assert "allow_msg_ttl" not in log
    assert log["discard"] == "new"
    assert f"partition({limits.PARTITIONS}," in log["subject_transform"]["dest"]


async def test_what_the_server_stores_is_what_the_code_computes(conn) -> None:
    await topology.apply(conn, topology.load(DIRECTORY, "development"))
    fact = subjects.FactSubject("acme", "a1", "k1", "task", "t1", "submitted", ("summarize", "batch"))
    await conn.request(fact.publish, b"{}")
    stored = await conn.api("STREAM.MSG.GET.EVENTS", {"seq": 1})
    assert stored["message"]["subject"] == fact.stored
    sample = subjects.SampleSubject("acme", "a1", "llm.tokens")
    await conn.request(sample.publish, b"1")
    stored = await conn.api("STREAM.MSG.GET.TELEMETRY", {"seq": 1})
    assert stored["message"]["subject"] == sample.stored


async def test_a_full_block_of_the_log_is_left_as_it_is(start_nats) -> None:
    """A broker that compresses writes it anew and syncs it, under a lock that publishers wait for: see 0092."""
    server = await start_nats()
    small = {"max_bytes": 30 * limits.MIB}  # below 32 MiB the broker makes blocks of 4 MB, not 8
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as conn:
        await topology.apply(conn, topology.load(DIRECTORY, "production").with_fields("EVENTS", **small))
        other = {"name": "OTHER", "subjects": ["other.>"], "storage": "file", "compression": "s2"}
        await conn.api("STREAM.CREATE.OTHER", other | small)
        log = subjects.FactSubject("acme", "a1", "k1", "file", "f1", "said").publish
        blocks = []
        for subject, stream in ((log, "EVENTS"), ("other.1", "OTHER")):
            await conn.request(subject, b"{}")
            (first,) = server.folder.rglob(f"streams/{stream}/msgs/1.blk")
            blocks.append((first, first.stat().st_ino))
            for _ in range(6):
                await conn.request(subject, b" " * 900_000)
            assert first.with_name("2.blk").exists()
        (log_block, log_inode), (other_block, other_inode) = blocks
        await until(lambda: other_block.stat().st_ino != other_inode)  # filled later, and written anew by now
        assert log_block.stat().st_ino == log_inode


async def test_changes_are_shown_and_destructive_ones_refused(conn, tmp_path: Path) -> None:
    wanted = topology.load(DIRECTORY, "development")
    await topology.apply(conn, wanted)

    def variant(**fields: object) -> topology.Topology:
        spec = wanted.get("EVENTS")
        changed = msgspec.structs.replace(spec, config={**spec.config, **fields})
        return topology.Topology(tuple(changed if s is spec else s for s in wanted.specs))

    more = variant(max_msgs=2_000_000, description="other")
    (change,) = await topology.plan(conn, more)
    assert change.action == "update"
    assert not change.destructive
    assert change.fields["max_msgs"] == (1_000_000, 2_000_000)
    await topology.apply(conn, more)
    assert await topology.plan(conn, more) == []

    for fields in ({"max_msgs": 10}, {"max_age": 10**9 * 180}, {"subjects": ["coord.ev.acme.*.*.*.*.>"]}):
        less = variant(**{"max_msgs": 2_000_000, "description": "other", **fields})
        with pytest.raises(errors.DestructiveChange):
            await topology.apply(conn, less)
        assert await topology.plan(conn, more) == []  # nothing was changed
    await topology.apply(conn, variant(max_msgs=500_000), allow_destructive=True)

    with pytest.raises(errors.DestructiveChange):  # would have to be made anew: never, data would go
        await topology.apply(conn, variant(storage="memory"), allow_destructive=True)


async def test_a_consumer_that_keeps_nothing_is_made_anew_without_asking(conn) -> None:
    """Those of an earlier version had acknowledgements and files; the checkpoints are in the database."""
    wanted = topology.load(DIRECTORY, "development")
    before = wanted.with_fields("EVENTS/projector-3", ack_policy="all", mem_storage=False)
    await topology.apply(conn, before)
    with pytest.raises(errors.DestructiveChange):  # the other way round acknowledgements would be lost
        await topology.apply(conn, wanted.with_fields("EVENTS/projector-4", ack_policy="all"))
    (change,) = await topology.plan(conn, wanted)
    assert (change.label, change.action, change.destructive) == ("EVENTS/projector-3", "recreate", False)
    await topology.apply(conn, wanted)
    assert await topology.plan(conn, wanted) == []
    await topology.create_consumer(conn, wanted.get("EVENTS/projector-3"))  # by two at once
    with pytest.raises(errors.BusError, match="already exists"):
        await topology.create_consumer(conn, before.get("EVENTS/projector-3"))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("A.toml", "name = 'B'", "name must be"),
        ("A.toml", "name = 'A'\nmax_age = 3", "not a duration"),
        ("A.toml", "name = 'A'\nmax_age = '3 weeks'", "not a duration"),
        ("A.toml", "name = ", "A.toml"),
    ],
)
def test_mistakes_in_files_name_the_file(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.TopologyError, match=complaint):
        topology.load(tmp_path)


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.TopologyError, match="no stream files"):
        topology.load(tmp_path)


async def test_an_unknown_field_is_refused_by_the_server(conn, tmp_path: Path) -> None:
    (tmp_path / "A.toml").write_text("name = 'A'\nsubjects = ['a']\nmax_mesages = 3")
    with pytest.raises(errors.BusError, match="invalid JSON"):
        await topology.apply(conn, topology.load(tmp_path))


async def test_a_consumer_for_all_partitions_is_taken_too(conn) -> None:
    """It filters as the partitions' own do together, and is forgotten; see coord.bus.shared."""
    wanted = topology.load(DIRECTORY)
    await topology.apply(conn, wanted)
    for label in ("EVENTS/projector-7", "TELEMETRY/projector-0", "EVENTS/decider-3"):
        own = wanted.get(label)
        spec = topology.for_all_partitions(own, behind=41)
        await topology.create_consumer(conn, spec)
        config = (await conn.api(f"CONSUMER.INFO.{spec.stream}.{spec.consumer}"))["config"]
        assert config["opt_start_seq"] == 42
        assert config["inactive_threshold"] == limits.GATHER_KEPT_S * 1e9
        assert config.get("durable_name") is config.get("priority_groups") is config.get("filter_subject") is None
        one, every = own.config.get("filter_subjects", []), config.get("filter_subjects", [])
        assert [f.split(".")[2:3] for f in every] == [["*"]] * len(one)
        assert [f.split(".")[3:] for f in every] == [f.split(".")[3:] for f in one]


_BEFORE = {
    "name": "TIMERS",
    "subject_transforms": [
        {
            "src": "coord.due.*.*.*.*",
            "dest": "coord.log.{{partition(16,2)}}."
            "{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}._timer.fired",
        }
    ],
}
"""How EVENTS took in what is due before TIMERS stored it under the subject that it has there."""


async def test_a_killed_broker_does_not_read_its_log_to_find_where_it_was_in_its_timers(start_nats) -> None:
    server = await start_nats()
    wanted = topology.load(DIRECTORY)
    fired = "coord.log.*.acme.*.timer.*._timer.fired"

    async def due(conn: Connection, *ids: str) -> None:
        for id_ in ids:
            conn.publish(subjects.due("acme", id_, "timer", id_), b"{}")

        async def taken_in() -> bool:
            info = await conn.api("STREAM.INFO.EVENTS", {"subjects_filter": fired})
            seen.update(info["state"].get("subjects") or {})
            return {subject.split(".")[6] for subject in seen} >= set(ids)

        await until(taken_in)

    seen: dict[str, int] = {}
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as conn:
        await topology.apply(conn, wanted.with_fields("EVENTS", sources=[_BEFORE]))
        config = (await conn.api("STREAM.INFO.TIMERS"))["config"]
        del config["subject_transform"]
        await conn.api("STREAM.UPDATE.TIMERS", config)
        await due(conn, "before")
        assert [c.label for c in await topology.apply(conn, wanted)] == ["TIMERS", "EVENTS"]
        for n in range(5_000):  # of each subject two: its older message is what the search was slow to find
            conn.publish(f"coord.ev.acme.a1.k{n % 2_500}.note.k{n % 2_500}.said", b"x" * 300)

        async def stored() -> bool:
            return bool((await conn.api("STREAM.INFO.EVENTS"))["state"]["messages"] > 5_000)

        await until(stored)
    server.kill()
    await server.start()
    said = server.log.read_text()
    restored = re.findall(r"Restored [\d,]+ messages for stream '\S+ > EVENTS' in (?:(\d+)ms|(\S+))", said)
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as conn:
        await due(conn, "after")
    assert set(seen.values()) == {1}
    assert len(seen) == 2
    print("restored in (ms, or else)", restored[-1])
    assert int(restored[-1][0] or 9_999) < 1_000, "it took seconds, and hours for a log of millions"

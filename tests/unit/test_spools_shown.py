"""`coord doctor` says what waits in the spool that the settings name."""

from __future__ import annotations

from pathlib import Path

from coord import limits
from coord.client.config import PublisherConfig
from coord.client.spool import Spool
from coord.core.spool import Record
from coord.ops import spools

NOW = 1_700_000_000.0


def record(age_s: float, size: int = 10) -> Record:
    at_ms = int((NOW - age_s) * 1000)
    return Record(0, 0, "t", 1, f"e{age_s}", "coord.ev.t.a.k.note.n.noted", b"", b"x" * size, at_ms=at_ms)


def spool_with(folder: Path, *records: Record) -> PublisherConfig:
    config = PublisherConfig(spool=str(folder), spool_bytes=2 * limits.SPOOL_SEGMENT_BYTES)
    spool = Spool(folder, "t a", config.spool_bytes)
    for one in records:
        assert spool.append(one) is not None
    spool.close()
    return config


async def said(config: PublisherConfig) -> tuple[str, str]:
    check = await spools.check(config, NOW)
    assert check is not None
    assert (check.name, bool(check.fix)) == ("spool", check.state == "warn")
    return check.state, check.detail


async def test_where_no_spool_is_set_nothing_is_said(tmp_path: Path) -> None:
    assert await spools.check(PublisherConfig()) is None
    state, detail = await said(PublisherConfig(spool=str(tmp_path / "never")))
    assert (state, "yet" in detail) == ("ok", True)
    assert not (tmp_path / "never").exists()


async def test_what_waits_is_counted_and_looked_at_when_it_waits_long(tmp_path: Path) -> None:
    fresh = spool_with(tmp_path / "fresh", record(20), record(10))
    assert await said(fresh) == ("ok", f"2 messages wait in {fresh.spool}")
    old = spool_with(tmp_path / "old", record(4_000), record(10))
    assert await said(old) == ("warn", f"2 messages wait in {old.spool}, the oldest for 4,000 s")


async def test_a_spool_that_is_nearly_full_is_named(tmp_path: Path) -> None:
    records = (record(age, limits.MIB) for age in range(int(1.9 * limits.SPOOL_SEGMENT_BYTES / limits.MIB), 0, -1))
    state, detail = await said(spool_with(tmp_path / "full", *records))
    assert state == "warn"
    assert "of publisher.spool_bytes" in detail


async def test_damage_and_what_was_put_aside_is_named(tmp_path: Path) -> None:
    config = spool_with(tmp_path / "hurt", record(2), record(1))
    (segment,) = (tmp_path / "hurt").glob("*.spool")
    segment.write_bytes(segment.read_bytes()[:-3])
    state, detail = await said(config)
    assert state == "warn"
    assert f"{segment.name}: torn after 1 records" in detail
    (tmp_path / "hurt" / "refused").write_bytes(b"")
    assert "refused was put aside" in (await said(config))[1]

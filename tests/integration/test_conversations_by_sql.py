"""The recorded conversations, replayed, then asked by SQL alone: the answers are those of plain Python."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coord.ops.replay.names import token_of
from coord.store import queries
from tests.integration.test_replay import recorded
from tests.support import log as logs
from tests.support.cli import cli
from tests.support.store import pool_of
from tests.support.waiting import until

pytestmark = pytest.mark.slow


class Told(NamedTuple):
    """What plain Python finds in a file of conversations."""

    follows: Counter[tuple[str, str]]
    """(who spoke, who spoke next) → how often."""
    chains: list[tuple[int, int, str]]
    """(-handoffs, line, path) of each conversation that changed speakers, the longest first."""
    failures: list[tuple[int, str, int, str, int, int]]
    """(line, who failed first, at which message, who said that, handoffs before it, messages in all)."""
    facts: int


def tell(path: Path) -> Told:
    """Nothing of coord, and nothing of SQL."""
    follows: Counter[tuple[str, str]] = Counter()
    chains, failures, facts = [], [], 0
    for line, text in enumerate(path.read_text().splitlines(), 1):
        run = json.loads(text)
        names = [message["name"] for message in run["history"]]
        follows.update(itertools.pairwise(names))
        speakers = [name for name, _ in itertools.groupby(names)]
        if len(speakers) > 1:
            chains.append((1 - len(speakers), line, " > ".join(speakers)))
        step = int(run["mistake_step"])
        before = sum(a != b for a, b in itertools.pairwise(names[: step + 1]))
        said = names[step] if step < len(names) else ""
        failures.append((line, run["mistake_agent"], step, said, before, len(names)))
        facts += 1 + len(names) + len(speakers) - 1
    return Told(follows, sorted(chains), failures, facts)


async def test_sql_says_what_plain_python_says(nats_server: Any, migrated_database: Any) -> None:
    path = recorded("who_and_when_algorithm.jsonl")
    told = tell(path)
    async with logs.open_log(nats_server.url) as log, logs.projector(nats_server.url, migrated_database.url):
        found = await cli("replay", path, "--nats", nats_server.url, "--tenant", log.tenant, "-o", "json")
        assert found.code == 0, found.err
        run = found.json["run"]
        async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:

            async def ask(name: str, **parameters: object) -> list[Any]:
                return await queries.run(conn, name, tenant=log.tenant, since="-infinity", **parameters)

            async def projected() -> bool:
                return bool((await ask("rows_vs_facts"))[0]["rows"] == told.facts)

            await until(projected, 100)
            follows = await ask("who_follows_whom", limit=100_000)
            chains = await ask("handoff_chains", limit=1000)
            failures = await ask("run_failures")
            teams = await ask("handoff_clusters", at_least=1, agents=1000)

    tokens = {(token_of(a), token_of(b)): n for (a, b), n in told.follows.items()}
    assert {(r["agent"], r["next_agent"]): r["times"] for r in follows} == tokens
    assert follows[0]["times"] == max(tokens.values())

    assert [-r["handoffs"] for r in chains] == [handoffs for handoffs, _, _ in told.chains], "the longest first"
    paths = {f"{run}-{line}": " > ".join(map(token_of, path.split(" > "))) for _, line, path in told.chains}
    assert {r["key"]: r["path"] for r in chains} == paths

    by_key = {r["key"]: r for r in failures}
    assert len(by_key) == len(failures) == len(told.failures) == 126
    for line, agent, step, said, before, messages in told.failures:
        row = by_key[f"{run}-{line}"]
        where = (row["agent"], row["step"], row["speaker"], row["handoffs_before"], row["messages"])
        assert where == (agent, step, said, before, messages), row
    blamed = Counter(agent for _, agent, *_ in told.failures)
    assert Counter(r["agent"] for r in failures).most_common(3) == blamed.most_common(3)

    assert sorted(r["members"].split(", ") for r in teams) == connected({pair for pair in tokens if pair[0] != pair[1]})


def connected(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """The groups that pairs join, each sorted."""
    group: dict[str, set[str]] = {}
    for a, b in pairs:
        joined = group.get(a, {a}) | group.get(b, {b})
        for member in joined:
            group[member] = joined
    return sorted(map(list, {tuple(sorted(members)) for members in group.values()}))

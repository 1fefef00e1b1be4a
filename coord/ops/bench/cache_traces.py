"""What a fleet asks for, after recordings of others (COORD_TEST_DATA): when, who, and what; drawn from a seed.

azure          requests to a code service, as they arrived.  Each goes to a process by chance and asks for the snippets
               of its context, one for each `SNIPPET_TOKENS` of it, drawn by Zipf's law; one request in `EDITS_EVERY`
               states a fact about one of them afterwards.
conversations  messages of teams of agents, `CONCURRENT` teams at a time, a message every `MESSAGE_S`.  Before a message
               its author asks for the conversation and for the profile of everybody who took part so far; then the
               message is a fact about the conversation, and everybody who took part asks for it.  An agent lives in
               one process.
"""

from __future__ import annotations

import csv
import itertools
import random
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from coord.ops.bench.measure import BenchError

Trace = Literal["azure", "conversations"]
FILES: Final[dict[Trace, str]] = {
    "azure": "azure_llm_inference_2023_code.csv",
    "conversations": "who_and_when_algorithm.jsonl",
}
SNIPPET_TOKENS: Final = 256
"""About a KiB of text."""
SNIPPETS: Final = 2_000
ZIPF: Final = 1.0
EDITS_EVERY: Final = 20
CONCURRENT: Final = 16
MESSAGE_S: Final = 0.1
SEED: Final = 6
MOVED: Final[dict[Trace, frozenset[str]]] = {"azure": frozenset(), "conversations": frozenset({"conversation"})}
"""Kinds of things whose answers facts move on: a message is added to a conversation; what an edit makes of a snippet
nobody can say who has not read it again."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """Somebody asks for a key, or a fact about it is committed."""

    at: float
    """Seconds since the first."""
    process: int
    """Who asks; -1: it is a fact."""
    key: str


def kind_of(key: str) -> str:
    """Of what it is: snippet, conversation, profile."""
    return key.partition("-")[0]


def steps(trace: Trace, data: Path, processes: int, limit: int | None = None) -> Iterator[Step]:
    """In the order of time; of the first `limit` requests or messages.  Raises `BenchError` without the recording."""
    path = data / FILES[trace]
    if not path.is_file():
        raise BenchError("there is no such recording", path=str(path))
    return (_azure if trace == "azure" else _conversations)(path, processes, limit)


def _azure(path: Path, processes: int, limit: int | None) -> Iterator[Step]:
    rng = random.Random(SEED)
    names = [f"snippet-{n}" for n in range(SNIPPETS)]
    shares = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, SNIPPETS + 1)))
    began: datetime | None = None
    with path.open(encoding="utf-8", newline="") as file:
        for n, row in enumerate(itertools.islice(csv.DictReader(file), limit)):
            # Seven digits of a second, where Python reads six.
            when = datetime.fromisoformat(row["TIMESTAMP"][:26])
            began = began or when
            at, process = (when - began).total_seconds(), rng.randrange(processes)
            asked = rng.choices(names, cum_weights=shares, k=max(1, int(row["ContextTokens"]) // SNIPPET_TOKENS))
            for key in asked:
                yield Step(at, process, key)
            if n % EDITS_EVERY == 0:
                yield Step(at, -1, rng.choice(asked))


class _Message(msgspec.Struct):
    name: str = ""
    role: str = ""


class _Recorded(msgspec.Struct):
    history: list[_Message]


def _conversations(path: Path, processes: int, limit: int | None) -> Iterator[Step]:
    with path.open("rb") as file:
        recorded = [msgspec.json.decode(line, type=_Recorded).history for line in file]
    waiting = iter(enumerate(recorded))
    open_: list[tuple[int, Iterator[_Message], list[str]]] = [
        (n, iter(history), []) for n, history in itertools.islice(waiting, CONCURRENT)
    ]
    said = 0
    while open_ and (limit is None or said < limit):
        number, messages, team = open_.pop(0)
        message = next(messages, None)
        if message is None:
            open_.extend((n, iter(history), []) for n, history in itertools.islice(waiting, 1))
            continue
        open_.append((number, messages, team))
        yield from _message(said * MESSAGE_S, f"conversation-{number}", message.name or message.role, team, processes)
        said += 1


def _message(at: float, conversation: str, author: str, team: list[str], processes: int) -> Iterator[Step]:
    if author not in team:
        team.append(author)
    yield Step(at, _home(author, processes), conversation)
    for agent in team:
        yield Step(at, _home(author, processes), f"profile-{agent}")
    yield Step(at, -1, conversation)
    for agent in team:
        # When its notice is long there: a team waits for each other.
        yield Step(at + MESSAGE_S / 2, _home(agent, processes), conversation)


def _home(agent: str, processes: int) -> int:
    """The same in every run."""
    return zlib.crc32(agent.encode()) % processes

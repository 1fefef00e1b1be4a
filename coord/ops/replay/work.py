"""What a recording is when it is done again: requests as tasks, conversations as workflows.

Arrivals: a task for each row, submitted when it arrived, that runs for as long as its tokens took to generate.
Conversations: a workflow for each run, a step for each message, done by whoever said it; where the next message
is another's, the speaker hands over to that one before its step ends.

How urgent something is no recording says: of ten rows (or runs) one is critical, six are normal, three are
batch, by a hash of the line, so that the same line has the same priority wherever it is replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from coord.errors import InvalidRecording
from coord.ops.replay.formats import arrivals, conversations
from coord.ops.replay.recording import Statement
from coord.wire.flow import Definition, Step
from coord.wire.work import Priority

FORMATS: Final = (arrivals.NAME, conversations.NAME)
"""Those that there is work in."""

TOKENS: Final = "GeneratedTokens"
"""The column of arrivals that says how long a request took."""

_CHARACTERS_A_TOKEN: Final = 4
"""Of English text, as model vendors estimate it."""

_SHARES: Final[dict[Priority, int]] = {"critical": 1, "normal": 6, "batch": 3}
_PRIORITIES: Final = [priority for priority, share in _SHARES.items() for _ in range(share)]


class Request(msgspec.Struct, frozen=True):
    """One row of arrivals."""

    row: int
    """From 1."""
    after_s: float
    """Since the first row."""
    tokens: int
    priority: Priority


class Said(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    speaker: str
    """A token."""
    to: str | None
    """Who speaks next, where that is another one."""
    tokens: int
    message: dict[str, Any]


class Talk(msgspec.Struct, frozen=True):
    """One conversation."""

    line: int
    priority: Priority
    messages: list[Said]

    @property
    def handoffs(self) -> int:
        """How often the speaker changes."""
        return sum(said.to is not None for said in self.messages)


def priority_of(line: int) -> Priority:
    """See the module."""
    return _PRIORITIES[int.from_bytes(hashlib.blake2b(str(line).encode(), digest_size=4).digest()) % len(_PRIORITIES)]


def requests(statements: Iterable[Statement]) -> Iterator[Request]:
    """Of arrivals; raises `InvalidRecording` where the tokens are missing."""
    first: datetime | None = None
    for statement in statements:
        data, at = statement.fact.data, statement.at
        tokens = data.get(TOKENS)
        if at is None or not isinstance(tokens, int) or tokens < 0:
            raise InvalidRecording(f"line {statement.line}: no number under {TOKENS}: how long is it to run?")
        first = at if first is None else first
        yield Request(data["row"], max(0.0, (at - first).total_seconds()), tokens, priority_of(data["row"]))


def talks(statements: Iterable[Statement]) -> Iterator[Talk]:
    """Of conversations, in file order."""
    line, messages = 0, list[Said]()
    for statement in statements:
        if statement.line != line and messages:
            yield Talk(line, priority_of(line), messages)
            messages = []
        line, fact = statement.line, statement.fact
        if fact.kind == "message":
            tokens = len(str(fact.data.get("content") or "")) // _CHARACTERS_A_TOKEN
            messages.append(Said(statement.agent, None, tokens, fact.data))
        elif fact.kind == "handoff":
            messages[-1] = msgspec.structs.replace(messages[-1], to=fact.data["to"])
    if messages:
        yield Talk(line, priority_of(line), messages)


def workflow(talk: Talk, capability: str, run_s: float) -> tuple[Definition, dict[str, Any]]:
    """A conversation as a workflow, and its input; `run_s`: of one token."""
    steps = [
        Step(
            name=f"m{n}",
            needs=[f"m{n - 1}"] if n else [],
            task=capability,
            input={"said": f"$input.m{n}", "to": said.to, "n": n, "run_s": said.tokens * run_s},
            priority=talk.priority,
            # Hundreds of agents in one process: none of them is away because it is slow to answer.
            placement={"strategy": "agent", "agent": said.speaker, "strict": True, "accept_ms": 10_000},
        )
        for n, said in enumerate(talk.messages)
    ]
    return Definition(name="conversation", steps=steps), {f"m{n}": said.message for n, said in enumerate(talk.messages)}

"""Recorded conversations of teams of agents: JSON lines, one run a line.

A run is ``{"question": …, "history": [{"name": …, "role": …, "content": …}, …], …}``.
Who speaks is ``name``, or ``role`` where there is no name; a role such as
``Planner (-> Coder)`` names speaker and addressee, any other parenthesis is a remark.

=====================  ==========================================================
``run.{run}.recorded``      the question and everything else of the line but its history
``message.{n}.sent``        each message, by its speaker
``handoff.{n}.offered``     by the last speaker, wherever the next message has another one
=====================  ==========================================================

The run is the key of all of them: ``{run id}-{line}``.  Names as they were are in the bodies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from coord.ops.replay.formats import trajectory
from coord.ops.replay.names import NameRefused, Names
from coord.ops.replay.recording import Item, Problem, Statement
from coord.ops.replay.source import Line, Source
from coord.wire.records import Fact

NAME: Final = "conversations"
TITLE: Final = "JSON lines of conversations: question, history of name, role and content"

_ARROW: Final = re.compile(r"(?:->|→|to\b)\s*")


class Message(msgspec.Struct):
    """One message; further members are kept in its fact."""

    content: Any
    """Text, or the parts of a multimodal message."""
    name: str | None = None
    role: str | None = None


class Conversation(msgspec.Struct):
    """One run; further members are kept in the fact ``run.recorded``."""

    history: list[dict[str, Any]]
    question: Any = None


class Speaker(msgspec.Struct, frozen=True):
    """Who said a message, as it was written."""

    name: str
    to: str | None = None
    remark: str | None = None


def sniff(head: str) -> bool:
    """A first line that is an object with a history; a line longer than the head is judged by its text."""
    first = head.lstrip().split("\n", 1)[0]
    if not first.startswith("{") or trajectory.sniff(first):  # a trajectory may have a history too
        return False
    return re.search(r'"history"\s*:\s*\[', first) is not None


def read(source: Source, run: str) -> Iterator[Item]:
    """The statements of every run, in file order."""
    agents = Names("agent")
    for line in source.lines():
        if isinstance(line, Problem):
            yield line
            continue
        try:
            yield from list(_run(line, f"{run}-{line.number}", agents))
        except (_Unreadable, NameRefused) as exc:
            yield Problem(line.number, str(exc))


def speaker_of(message: Message) -> Speaker | None:
    """Who speaks; None when the message names nobody."""
    name = (message.name or "").strip()
    role = (message.role or "").strip()
    found = _split(role) if role else None
    if not name:
        return found
    # A role beside a name may still say to whom: {"name": "Planner", "role": "assistant (-> Coder)"}.
    own = _split(name)
    if own.to is None and own.remark is None and found is not None:
        return Speaker(own.name, found.to, found.remark)
    return own


def _split(text: str) -> Speaker:
    """``Planner (-> Coder)``, ``Planner (remark)`` or a name; by hand, because a name may be as long as a line."""
    speaker, parenthesis, inner = text.removesuffix(")").rpartition("(")
    speaker, inner = speaker.strip(), inner.strip()
    if not (text.endswith(")") and parenthesis and speaker and inner) or ")" in inner:
        return Speaker(text)
    if (match := _ARROW.match(inner)) is not None and match.end() < len(inner):
        return Speaker(speaker, to=inner[match.end() :])
    return Speaker(speaker, remark=inner)


class _Unreadable(ValueError):
    pass


def _run(line: Line, key: str, agents: Names) -> Iterator[Statement]:
    try:
        whole = msgspec.json.decode(line.text, type=dict[str, Any])
        conversation = msgspec.convert(whole, Conversation)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _Unreadable(f"no conversation: {exc}") from None
    del whole["history"]
    messages = [_message(raw, index) for index, raw in enumerate(conversation.history)]
    if not messages:
        raise _Unreadable("history is empty")
    ordinal = 0

    def statement(by: str, kind: str, id_: str, event: str, data: dict[str, Any]) -> Statement:
        nonlocal ordinal
        fact = Fact(kind=kind, id=id_, event=event, key=key, correlation_id=key, data=data)
        made = Statement(line=line.number, ordinal=ordinal, agent=agents.token(by, line.number), fact=fact)
        ordinal += 1
        return made

    first = messages[0][0].name
    yield statement(first, "run", key, "recorded", {**whole, "messages": len(messages)})
    for index, (speaker, said) in enumerate(messages):
        data = said if speaker.to is None else {**said, "to": agents.token(speaker.to, line.number)}
        yield statement(speaker.name, "message", str(index), "sent", data)
        following = messages[index + 1][0].name if index + 1 < len(messages) else speaker.name
        if following != speaker.name:
            work = {
                "to": agents.token(following, line.number),
                "to_name": following,
                "from_name": speaker.name,
                "reason": "next to speak",
                "message": index,
            }
            yield statement(speaker.name, "handoff", str(index), "offered", work)


def _message(raw: dict[str, Any], index: int) -> tuple[Speaker, dict[str, Any]]:
    try:
        message = msgspec.convert(raw, Message)
    except msgspec.MsgspecError as exc:
        raise _Unreadable(f"history[{index}]: {exc}") from None
    speaker = speaker_of(message)
    if speaker is None:
        raise _Unreadable(f"history[{index}]: neither name nor role says who speaks")
    data = {"index": index, "speaker": speaker.name, **raw}
    if speaker.to is not None:
        data["to_name"] = speaker.to
    if speaker.remark is not None:
        data["remark"] = speaker.remark
    return speaker, data

"""Running a workflow again from a step: what the new one takes over, and its start.

The original's facts are read from the log, else from the tables, which keep them for longer.  What the new one takes
over stands in its start, so nobody has to ask for the original any more (`coord.core.flow_inherited`).  Large
outputs are stored anew: those of the original live only as long as the bucket keeps them.
"""

# ruff: noqa: A002 - `id` is what an entity's id is called

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from coord import errors, limits
from coord.client.building import Workflow as Built
from coord.client.workflows import WorkflowHandle, encoded, facts_of, size_of
from coord.core import flow_definition, flow_rerun
from coord.core.flow_definition import Plan
from coord.core.flow_state import Flow, Inlined
from coord.core.workflow_life import Workflow
from coord.wire import codec, flow, subjects
from coord.wire.flow import Definition, TakenOver
from coord.wire.records import StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord


class Prepared(msgspec.Struct, frozen=True):
    """A rerun that has not begun."""

    started: flow.Started
    original: Workflow
    taken_over: list[str]
    """Steps that ended in the original,"""
    runs: list[str]
    """and those that are run (again), in the definition's order."""


async def prepare(
    coord: Coord, id: str, from_step: str | Sequence[str] | None, *,
    definition: Definition | Built | Mapping[str, Any] | None = None, input: Any = UNSET, moves: bool = True,
) -> Prepared:  # fmt: skip
    """What a rerun would be; see `Coord.rerun_workflow` for what it raises.  `moves`: store large outputs anew."""
    since = [from_step] if isinstance(from_step, str) else list(from_step or ())
    original = await _reached(coord, id)
    raw = original.definition if definition is None else encoded(definition)
    plan = flow_definition.plan(flow_definition.decode(raw))
    taken = flow_rerun.take_over(original, plan, since)
    runs = [planned.step.name for planned in plan.steps if planned.step.name not in taken]
    if not runs:
        raise errors.InvalidArgument("all of its steps have ended: name the one to run again from", workflow=id)
    given = original.input if input is UNSET else codec.encode(input)
    started = flow.Started(
        definition=msgspec.Raw(raw), input=msgspec.Raw(given), instance=coord.instance,
        rerun=flow.Rerun(of=id, since=since, steps=taken),
    )  # fmt: skip
    if moves:
        started = await _with_room(coord, plan, await _renewed(coord, plan, started))
    return Prepared(started, original.life, list(taken), runs)


async def start(
    handle: WorkflowHandle[Any], prepared: Prepared, *, id: str | None, returns: Any = Any
) -> WorkflowHandle[Any]:
    """Start it; without `id` under the next that is free.  `handle`: the original's."""
    flows, started, original = handle.flows, prepared.started, prepared.original
    correlation_id = original.correlation_id
    if id is not None:
        return await flows.begin(id, started, returns, correlation_id=correlation_id)
    base, number = _numbered(original.id)
    refused: errors.WorkflowExists | None = None
    for n in range(number, number + limits.FLOW_RERUNS_MAX):
        name = f"{base[: limits.TOKEN_BYTES_MAX - len(f'-r{n}')]}-r{n}"
        try:
            return await flows.begin(name, started, returns, correlation_id=correlation_id, anew=True)
        except errors.WorkflowExists as exc:
            refused = exc
    assert refused is not None, "some were tried"
    raise refused


def _numbered(id: str) -> tuple[str, int]:
    """What reruns of a workflow are called, and the first number to try: `news` → (news, 2), `news-r2` → (news, 3)."""
    base, dash, number = id.rpartition("-r")
    if dash and base and number.isascii() and number.isdecimal() and len(number) <= 6 and int(number) >= 2:
        return base, int(number) + 1
    return id, 2


# --- the original -------------------------------------------------------------------------------


async def _reached(coord: Coord, id: str) -> Flow:
    subjects.check_token(id, "a workflow's id")
    in_log = await facts_of(coord, id)
    found = flow_rerun.reached(in_log)
    if found is not None:
        return found
    try:
        stored = await _in_tables(coord, id)
    except (errors.ServiceUnavailable, errors.NoPermission) as exc:
        raise errors.UnknownWorkflow("not in the log, and nobody answers for the tables", workflow=id) from exc
    newest = max((fact.seq for fact in stored), default=0)
    found = flow_rerun.reached([*stored, *(fact for fact in in_log if fact.seq > newest)])
    if found is not None:
        return found
    rows = (await coord.query("workflow", id=id)).rows
    if rows:  # its row is kept for longer than its facts, which may be in the archive: that is for operators to read
        raise errors.WorkflowGone(workflow=id, since=rows[0]["started_at"], until=rows[0]["ended_at"])
    if any(fact.kind == "workflow" or (fact.kind == "task" and fact.id != id) for fact in (*in_log, *stored)):
        raise errors.WorkflowGone(workflow=id)
    raise errors.UnknownWorkflow(workflow=id)


async def _in_tables(coord: Coord, id: str) -> list[StoredFact]:
    """Its facts as the tables have them, of the newest epoch in which a workflow of this id began."""
    rows: list[dict[str, Any]] = []
    async for page in coord.query.pages("history", key=id):
        rows += page.rows
        if len(rows) >= limits.ENTITY_FACTS_MAX:
            break
    began = max((row["epoch"] for row in rows if (row["kind"], row["event"]) == ("workflow", "started")), default=0)
    return [_fact(coord, id, row) for row in rows if row["epoch"] >= began]


def _fact(coord: Coord, key: str, row: dict[str, Any]) -> StoredFact:
    stored_at = datetime.fromisoformat(row["stored_at"])
    return StoredFact(
        coord.tenant, row["agent"], key, row["kind"], row["id"], row["event"],
        tuple(row["detail"].split(".")) if row["detail"] else (), subjects.partition(key), row["seq"], row["idx"],
        stored_at, stored_at, str(row["event_id"]), "", 1, None, row["causation_id"], None,
        b"" if row["data"] is None else msgspec.json.encode(row["data"]), "json",
    )  # fmt: skip


# --- large outputs ------------------------------------------------------------------------------


async def _renewed(coord: Coord, plan: Plan, started: flow.Started) -> flow.Started:
    """With what travels by reference stored anew, where what runs is handed it."""
    assert started.rerun is not None, "it is a rerun"
    steps = dict(started.rerun.steps)
    for name in flow_rerun.wanted(plan, steps):
        over = steps[name]
        try:
            output = await coord.payloads.renewed(bytes(over.output))
        except errors.ApiNotFound as exc:
            raise errors.WorkflowGone(workflow=started.rerun.of, step=name) from exc
        steps[name] = msgspec.structs.replace(over, output=msgspec.Raw(output))
    return _with_steps(started, steps)


async def _with_room(coord: Coord, plan: Plan, started: flow.Started) -> flow.Started:
    """With outputs by reference that would not fit: of those that nothing looks into the largest first."""
    assert started.rerun is not None, "it is a rerun"
    steps = dict(started.rerun.steps)
    over_by = size_of(started) - limits.FLOW_BYTES_MAX
    for name in flow_rerun.movable(plan, steps):
        if over_by <= 0:
            break
        output = bytes(steps[name].output)
        moved = msgspec.json.encode(Inlined(await coord.payloads.put(output)))
        steps[name] = msgspec.structs.replace(steps[name], output=msgspec.Raw(moved))
        over_by -= len(output) - len(moved)
    return _with_steps(started, steps)


def _with_steps(started: flow.Started, steps: dict[str, TakenOver]) -> flow.Started:
    assert started.rerun is not None, "it is a rerun"
    return msgspec.structs.replace(started, rerun=msgspec.structs.replace(started.rerun, steps=steps))

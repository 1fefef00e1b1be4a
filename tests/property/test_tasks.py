"""Tasks under any facts by anybody: who is believed, that claims never overlap, that every task ends.

The facts are drawn without regard to what is allowed; `Task` and `TaskDecider` have to sort them
out.  A plain model, written from docs/protocol.md §16, says what must hold.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from coord import limits
from coord.core import claiming, tasks
from coord.core.deciding import Open, Push, Settle, State
from coord.core.recorded import recorded
from coord.core.task_decider import TaskDecider
from coord.core.tasks import ENDED, TRANSITIONS, Task
from coord.wire import subjects
from coord.wire.envelope import StoredFact

T0 = datetime(2026, 11, 21, 10, tzinfo=UTC)
SUBMITTER = "me"
AGENTS = ("me", "w1", "w2", "eve", "_task")
NUMBERED = ("claimed", "returned", "released")
EVENTS = (
    *NUMBERED,
    "submitted",
    "progress",
    "recorded",
    "completed",
    "rejected",
    "failed",
    "cancelled",
    "expired",
    "placed",
    "odd",
)


few = settings(max_examples=60)


def stored(seq: int, agent: str, event: str, detail: tuple[str, ...], data: Any, *, id_: str = "t1") -> StoredFact:
    return StoredFact(
        "acme", agent, id_, "task", id_, event, detail, subjects.partition(id_), seq, 0,
        T0 + timedelta(seconds=seq), T0, f"e{seq}", f"coord.task.{event}", 1, None, None, None,
        data if isinstance(data, bytes) else msgspec.json.encode(data), "json",
    )  # fmt: skip


def submitted(
    seq: int = 1, *, agent: str = SUBMITTER, queue: str = "normal", id_: str = "t1", **said: Any
) -> StoredFact:
    return stored(seq, agent, "submitted", ("work", queue), said, id_=id_)


@st.composite
def bodies(draw: st.DrawFn, event: str) -> Any:
    if draw(st.integers(0, 19)) == 0:  # what no release ever wrote
        return draw(st.sampled_from([b"[]", b'"x"', b'{"claim":"one"}', b"7", b"", b"null"]))
    body: dict[str, Any] = {}
    if event == "submitted":
        body = {"input": draw(st.integers(0, 2)), "retries": draw(st.integers(-1, 2)), "instance": "me1"}
        if draw(st.booleans()):
            del body["retries"]
        for name in ("redrive", "restated"):
            if draw(st.integers(0, 3)) == 0:
                body[name] = draw(st.integers(0, 3))
        if draw(st.integers(0, 4)) == 0:
            body["carried"] = {"claims": draw(st.integers(0, 5)), "submitter": "eve"}
    elif event == "claimed":
        body = draw(claim_bodies)
    elif event in ("progress", "recorded", "completed", "rejected", "failed"):
        body = {"claim": draw(st.one_of(st.none(), st.integers(0, 4)))}
        if event == "recorded":
            body |= {"step": draw(st.sampled_from(["a", "b", "", "c" * 257])), "output": draw(st.integers(0, 9))}
        if event == "failed":
            body["final"] = draw(st.booleans())
    elif event == "released":
        body = {"reason": draw(st.sampled_from(["gone", "timeout", "drained"]))}
    return body


claim_bodies = st.fixed_dictionaries(
    {"instance": st.sampled_from(["i1", "i2", None])},
    optional={"retries": st.integers(-1, 2), "timeout_s": st.sampled_from([0, 1.5, 3600, 1e9])},
)


@st.composite
def facts(draw: st.DrawFn, seq: int) -> StoredFact:
    event = draw(st.sampled_from(EVENTS))
    # Deciders' events from deciders, mostly: `authors.check` refuses the rest before any fold.
    agent = draw(st.sampled_from(AGENTS))
    if event in ("released", "expired", "placed"):
        agent = "_task"
    detail: tuple[str, ...] = ()
    if event in NUMBERED or event == "placed":
        detail = (draw(st.sampled_from(["1", "2", "3", "4", "0", "01", "x"])),)
    elif event == "submitted":
        detail = draw(st.sampled_from([("work", "normal"), ("work", "batch"), ("work", "odd"), ("work",)]))
    return stored(seq, agent, event, detail, draw(bodies(event)))


@st.composite
def sensible(draw: st.DrawFn, task: Task, seq: int) -> StoredFact:
    """What somebody who knows the task might state next."""
    data: Any = {}
    if task.status == "claimed":
        assert task.claimant is not None
        agent = task.claimant
        event = draw(
            st.sampled_from(
                [*["failed", "released", "recorded"] * 2, "completed", "rejected", "returned", "progress", "cancelled"]
            )
        )
    elif task.ended:
        redrive = task.redrives + 1
        return submitted(seq, input=draw(st.integers(0, 1)), retries=1, instance="me1", redrive=redrive)
    else:
        agent = draw(st.sampled_from(["w1", "w2"]))
        event = draw(st.sampled_from([*["claimed"] * 4, "placed", "returned", "expired", "cancelled"]))
    if event in ("released", "placed", "expired"):
        agent = "_task"
    if event == "cancelled":
        agent = SUBMITTER
    if event == "claimed":
        data = draw(claim_bodies)
    elif event == "recorded":
        data = {"claim": task.claims, "step": draw(st.sampled_from("ab")), "output": seq}
    detail: tuple[str, ...] = ()
    if event in (*NUMBERED, "placed"):
        detail = (str(task.claims if task.status == "claimed" else task.next_claim),)
    return stored(seq, agent, event, detail, data)


@st.composite
def histories(draw: st.DrawFn) -> list[StoredFact]:
    """Half of it makes sense."""
    task = Task(tenant="acme", key="t1", id="t1")
    first = [submitted(1, input=0, retries=2, instance="me1"), submitted(1, input=0, timeout_s=9, instance="me1")]
    history = [draw(st.sampled_from(first))] if draw(st.integers(0, 9)) else []
    for fact in history:
        task.apply(fact)
    for seq in range(len(history) + 1, len(history) + 1 + draw(st.integers(0, 14))):
        known = task.submitted_seq and draw(st.booleans())
        history.append(draw(sensible(task, seq) if known else facts(seq)))
        task.apply(history[-1])
    return history


def status(task: Task) -> str:
    return task.status if task.submitted_seq else "-"


@few
@given(histories())
def test_only_listed_transitions_and_only_by_whom_they_are_given_to(history: list[StoredFact]) -> None:
    task = Task(tenant="acme", key="t1", id="t1")
    for fact in history:
        before, was, held_by, claim = msgspec.to_builtins(task), status(task), task.claimant, task.claims
        submitter = task.submitter
        refusal = task.apply(fact)
        if refusal is not None:
            assert msgspec.to_builtins(task) == before, "a refused fact changes nothing"
            assert refusal.code.startswith("task.")
            continue
        assert status(task) in TRANSITIONS[was, fact.event]
        match fact.event:
            case "claimed":
                assert was in ("queued", "waiting")
                assert fact.detail == (str(claim + 1),)
                assert (task.claimant, task.claims) == (fact.agent, claim + 1)
            case "completed" | "rejected" | "failed" | "progress" | "recorded":
                assert was == "claimed"
                assert fact.agent == held_by
                assert fact.event != "recorded" or msgspec.to_builtins(task) == before, "tables have no row for it"
            case "returned":
                assert fact.agent == held_by or was != "claimed"
            case "released":
                assert (was, fact.detail) == ("claimed", (str(claim),))
            case "cancelled":
                assert fact.agent == submitter or fact.agent.startswith("_")
            case "submitted":
                assert was == "-" or was in ENDED - {"completed"} or fact.agent == "_task"
            case "placed":
                assert status(task) == was, "what overtook a decision stands"
        assert was not in ENDED or fact.event in ("submitted", "placed")


@few
@given(histories())
def test_the_first_record_of_a_step_holds_until_other_work_is_begun(history: list[StoredFact]) -> None:
    task = Task(tenant="acme", key="t1", id="t1")
    held: dict[str, Any] = {}
    work: Any = None
    for n, fact in enumerate(history, 1):
        redrives = task.redrives
        if task.apply(fact) is None:
            if fact.event == "submitted" and (work is None or task.redrives != redrives):
                if work != (work := (fact.detail[0], task.submission.input)):
                    held = {}
            elif fact.event == "recorded":
                held.setdefault(fact.data["step"], fact.data["output"])
        found, records = recorded(history[:n])
        assert {step: msgspec.json.decode(record.output) for step, record in records.items()} == held
        assert found == (task if task.submitted_seq else None)


@few
@given(histories(), st.sampled_from(["w1", "w2"]), st.sampled_from(["i1", "i2", None]))
def test_a_worker_runs_what_it_holds_claims_what_is_free_and_lets_nothing_go_that_is_to_be_done(
    history: list[StoredFact], agent: str, instance: str | None
) -> None:
    seqs = [fact.seq for fact in history if fact.event == "submitted"]
    for n in range(len(history) + 1):
        task, _ = tasks.fold(history[:n])
        for seq in seqs:
            move = claiming.decide(task, agent=agent, instance=instance or "", seq=seq)
            mine = task is not None and task.status == "claimed" and (task.claimant, task.instance) == (agent, instance)
            match move:
                case claiming.Hold():
                    assert task is not None
                    assert mine, "another's"
                    assert move.n == task.claims
                case claiming.Claim():
                    assert task is not None
                    claim = stored(99, agent, "claimed", (str(move.n),), {"instance": instance})
                    assert task.submitted_seq == seq, "another delivery's"
                    assert task.apply(claim) is None, "nobody would believe it"
                case claiming.Leave():
                    assert not mine or instance is None, "nobody else would run it before its timeout"
                    to_do = task is not None and not task.ended and task.submitted_seq == seq
                    assert not (to_do and move.settle), "it would be delivered to nobody"
            if isinstance(move, claiming.Claim):
                task, _ = tasks.fold(history[:n])


@few
@given(histories())
def test_claims_never_overlap_and_executions_are_bounded(history: list[StoredFact]) -> None:
    task = Task(tenant="acme", key="t1", id="t1")
    holder: str | None = None
    for fact in history:
        before = task.failures
        if task.apply(fact) is not None:
            continue
        if fact.event == "claimed":
            assert holder is None, "claimed while it was held"
            holder = fact.agent
        elif task.status != "claimed":
            holder = None
        assert (task.claimant is not None) == (holder is not None) or task.ended
        assert task.failures <= max(task.retries, before) + 1
        assert task.deaths <= limits.TASK_DEATHS_MAX + 1
        if task.status in ("queued", "waiting"):
            assert task.failures <= task.retries or fact.event != "failed"
            assert task.deaths <= limits.TASK_DEATHS_MAX
        if task.status == "waiting":
            assert task.retry_at is not None
            wait_s = task.retry_at - fact.stored_at.timestamp() if fact.event == "failed" else 0.0
            assert wait_s <= task.submission.backoff_max_s


@few
@given(
    st.none() | st.integers(0, 3), st.none() | st.sampled_from([5.0, 600.0, 900.0]),
    st.lists(
        st.tuples(st.none() | st.integers(-1, 12), st.none() | st.sampled_from([-1.0, 5.0, 900.0, 1e9])), max_size=6
    ),
)  # fmt: skip
def test_the_submitter_decides_else_the_handler_else_the_defaults(
    said_retries: int | None, said_timeout_s: float | None, handlers: list[tuple[int | None, float | None]]
) -> None:
    """Whichever handler takes it; what none can have counts as not said."""
    told = {"retries": said_retries, "timeout_s": said_timeout_s}
    decider, task = TaskDecider(), Task(tenant="acme", key="t1", id="t1")
    said: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    first = submitted(1, **said)
    effects(decider, first)
    assert task.apply(first) is None
    assert (task.retries, task.timeout_s) == (
        3 if said_retries is None else said_retries, 600 if said_timeout_s is None else said_timeout_s,
    )  # fmt: skip
    for n, (retries, timeout_s) in enumerate(handlers, 1):
        of_handler = 3 if retries is None or retries < 0 else retries
        longest_s = 600 if timeout_s is None or not 0 < timeout_s < 1e9 else timeout_s
        claimed = stored(10_000 * n, "w1", "claimed", (str(n),), {"retries": retries, "timeout_s": timeout_s})
        assert task.apply(claimed) is None
        effects(decider, claimed)
        assert task.retries == (of_handler if said_retries is None else said_retries)
        assert task.timeout_s == (longest_s if said_timeout_s is None else said_timeout_s)
        now = claimed.stored_at.timestamp()
        overruns_at = now + task.timeout_s + limits.TASK_TIMEOUT_GRACE_S
        while now < overruns_at:  # looked at now and then, it is let go once it has overrun
            assert not [e for e in decider.tick(now, Nobody()) if isinstance(e, State)]
            now += 7.3
        assert [e.event for e in decider.tick(overruns_at + 0.01, Nobody()) if isinstance(e, State)] == ["released"]
        failed = stored(10_000 * n + 5_000, "w1", "failed", (), {"error": "oops"})
        assert task.apply(failed) is None
        effects(decider, failed)
        assert task.ended == (task.failures > task.retries)
        if task.ended:
            return


def test_a_task_that_kills_everybody_ends() -> None:
    task = Task(tenant="acme", key="t1", id="t1")
    assert task.apply(submitted(1, retries=0)) is None
    seq = 1
    while not task.ended:
        seq += 2
        assert task.apply(stored(seq, "w1", "claimed", (str(task.next_claim),), {"instance": "i"})) is None
        assert task.apply(stored(seq + 1, "_task", "released", (str(task.claims),), {"reason": "gone"})) is None
    assert (task.status, task.error, task.claims) == ("failed", "gone", limits.TASK_DEATHS_MAX + 1)


def test_the_subjects_priority_is_the_tasks_also_where_the_body_says_none_or_another() -> None:
    for stated in (submitted(queue="critical"), submitted(queue="critical", priority="batch")):
        task = Task(tenant="acme", key="t1", id="t1")
        assert task.apply(stated) is None
        assert task.submission.priority == "critical"
    placed = Task(tenant="acme", key="t1", id="t1")
    assert placed.apply(submitted(queue="placed", priority="batch")) is None
    assert (placed.queue, placed.submission.priority) == ("placed", "batch"), "there the body says it"


@few
@given(histories(), st.integers(0, 26))
def test_dump_and_load_anywhere_decide_the_same(history: list[StoredFact], cut: int) -> None:
    whole, first, second = TaskDecider(), TaskDecider(), TaskDecider()
    expected = [effects(whole, fact) for fact in history]
    found = [effects(first, fact) for fact in history[:cut]]
    second.load(msgspec.msgpack.decode(msgspec.msgpack.encode(first.dump())))
    assert second.oldest() == first.oldest()
    found += [effects(second, fact) for fact in history[cut:]]
    # What was opened is not remembered: asking twice for a queue is harmless.
    assert without_opens(found) == without_opens(expected)
    assert msgspec.msgpack.encode(second.dump()) == msgspec.msgpack.encode(whole.dump())
    assert second.usage() == whole.usage()
    ours, theirs = whole.fares.get(("acme", "work")), second.fares.get(("acme", "work"))
    if ours is not None and theirs is not None:
        assert (ours.queued, ours.claimed, ours.waiting) == (theirs.queued, theirs.claimed, theirs.waiting)


def effects(decider: TaskDecider, fact: StoredFact) -> list[Any]:
    return list(decider.apply(fact))


def without_opens(found: list[list[Any]]) -> list[list[Any]]:
    return [[e for e in es if not isinstance(e, Open)] for es in found]


@few
@given(histories())
def test_what_the_decider_holds_is_what_is_open(history: list[StoredFact]) -> None:
    decider, task = TaskDecider(), Task(tenant="acme", key="t1", id="t1")
    acked: set[int] = set()
    for fact in history:
        if decider.forgot(fact) and task.submitted_seq:
            decider.recall(history[: fact.seq - 1])
        task.apply(fact)
        for effect in decider.apply(fact):
            assert not isinstance(effect, State), "facts alone make the task decider state nothing"
            if isinstance(effect, Settle) and effect.how == "ack":
                acked.add(effect.seq)
            if isinstance(effect, Push) and effect.body["what"] == "ended":
                assert task.ended
        is_open = task.submitted_seq > 0 and not task.ended
        assert len(decider) == is_open
        if is_open:
            assert decider.oldest() == task.submitted_seq not in acked
            fare = decider.fares["acme", task.capability]
            assert getattr(fare, task.status) == 1
            assert fare.queued + fare.claimed + fare.waiting == 1
            assert fare.again == (task.status == "queued" and task.claims > 0)
        elif task.submitted_seq:
            assert task.submitted_seq in acked
    held = {(task.tenant, task.claimant): 1} if task.status == "claimed" else {}
    assert decider.usage() == held


class Nobody:
    """Knows of the death of some."""

    def __init__(self, *dead: str) -> None:
        self.dead = set(dead)

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        return instance not in self.dead


@few
@given(histories(), st.sets(st.sampled_from(["i1", "i2"])), st.integers(0, 5_000))
def test_what_time_and_deaths_lead_to_is_believed(history: list[StoredFact], dead: set[str], later: int) -> None:
    """Folding what the decider states has the effect that it meant, and it asks for nothing twice."""
    decider, task = TaskDecider(), Task(tenant="acme", key="t1", id="t1")
    seq = 0
    for fact in history:
        seq = fact.seq
        if decider.forgot(fact) and task.submitted_seq:
            decider.recall(history[: fact.seq - 1])
        task.apply(fact)
        effects(decider, fact)
    now = T0.timestamp() + seq + later
    found = [e for instance in sorted(dead) for agent in AGENTS for e in decider.gone("acme", agent, instance, now)]
    found += decider.tick(now, Nobody(*dead))
    stated = {(e.event, e.detail): e for e in found if isinstance(e, State)}
    holds = task.status == "claimed" and task.instance in dead
    overran = task.status == "claimed" and later > task.timeout_s + limits.TASK_TIMEOUT_GRACE_S + 100
    if holds or overran:
        assert ("released", (str(task.claims),)) in stated
    for state in stated.values():
        seq += 1
        assert state.from_outside
        body = msgspec.to_builtins(state.data)
        refusal = task.apply(stored(seq, state.agent, state.event, state.detail, body))
        assert refusal is None or task.ended
        effects(decider, stored(seq, state.agent, state.event, state.detail, body))
    assert not [e for e in decider.gone("acme", "w1", "i1", now) if task.status != "claimed"]


@few
@given(histories())
def test_a_task_stated_again_goes_on_as_it_was(history: list[StoredFact]) -> None:
    """Whoever finds only the restatement in the log knows what matters."""
    task, _ = tasks.fold(history)
    if task is None or task.ended:
        return
    decider = TaskDecider()
    for at, fact in enumerate(history):
        if decider.forgot(fact):
            decider.recall(history[:at])
        effects(decider, fact)
    (state,) = [e for e in decider.edge(1_000) if isinstance(e, State)]
    assert state.merge_seq == task.submitted_seq
    again = stored(500, state.agent, state.event, state.detail, msgspec.to_builtins(state.data))
    alone, _ = tasks.fold([again])
    assert alone is not None
    assert task.apply(again) is None
    for name in msgspec.structs.fields(Task):
        if name.name not in ("submission", "progress", "error", "message", "run_s", "event_id", "payload_hash",
                             "correlation_id", "redrives"):  # fmt: skip
            assert getattr(alone, name.name) == getattr(task, name.name), name.name
    assert alone.apply(stored(501, "w9", "claimed", (str(alone.next_claim),), {})) == task.apply(
        stored(501, "w9", "claimed", (str(task.next_claim),), {})
    )

"""Facts about entities into their tables, in the transaction of the facts.

::

    events of the batches ──by entity, in log order──▶ saved folds read, one question a table
                                                        │ the deciders' folds judge
                              refused: dead letters ◀──┤
                                                        ▼ rows, one an entity, by primary key

Whether a fact is believed is a function of the log, so it is judged here as its decider judged it.
A refused fact about an entity that the table does not know stays a plain row: what it is about may
be older than the projection.  One about a known entity becomes a dead letter, in place of its row; so does a beginning
that is wrong by itself, whatever the table knows: nothing that was said before could explain it.

**Epochs.**  A row of an older epoch is of a log that was replaced, or has lost a part.  What follows it is
folded on it all the same; but a beginning that it refuses begins the entity anew, and nothing else that it refuses
is a dead letter: what would explain it may be in the part that is gone.

A beginning that its fold has heard before (the same words: `SAME_LIFE`) is no beginning: it proves the same life,
unless the row was lost with its log.

**Rows that lag.**  A fold that has no room in its row is not written; the row stays as it was, but for its `idx`,
which becomes ``-1 - idx``.  What follows is judged on a fold that lacks facts: it is never a dead letter, for good,
or until the entity begins anew.

A task's progress that nobody submitted (frames of it, 100,000s a second) costs a look-up, not a fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.core.tasks import Refusal
from coord.errors import CoordError, Fault
from coord.projector.tableless import FOLDED
from coord.projector.tables import ALONE, BY_ITSELF, GATHERED, QUIET, SAME_LIFE, TABLES, Folded, Table
from coord.store import entities
from coord.store.entities import Ident, Position
from coord.store.pool import Connection
from coord.store.rows import EventRow
from coord.telemetry import logs
from coord.wire.envelope import StoredFact

_log = logs.get("projector")

_encode: Final = msgspec.msgpack.Encoder().encode

Place: TypeAlias = tuple[int, int]
"""(stream sequence, index in frame)."""


class Unbelieved(CoordError):
    """A fact that the fold of its entity refuses."""

    code = "entity.refused"
    fault = Fault.SENDER
    remedy = "Read the entity's history and docs/protocol.md §16: another fact came first, or was another author's."

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.code = refusal.code  # type: ignore[misc]  # a refusal's code is its own


async def project(conn: Connection, batches: Sequence[list[EventRow]]) -> list[dict[Place, CoordError]]:
    """Bring the tables up to date with `batches`; for each of them, what is refused.

    When anything is refused nothing was written: park that, and come again.
    """
    written, refused = await folded(conn, batches)
    if not any(refused):
        for table, rows in written:
            await entities.save(conn, table.name, rows)
    return refused


async def folded(
    conn: Connection, batches: Sequence[list[EventRow]], schema: str = "coord"
) -> tuple[list[tuple[Table, list[tuple[Any, ...]]]], list[dict[Place, CoordError]]]:
    """The rows that `batches` make of what the tables in `schema` have, and what of each batch is refused."""
    refused: list[dict[Place, CoordError]] = [{} for _ in batches]
    written: list[tuple[Table, list[tuple[Any, ...]]]] = []
    about = gathered(batches)
    for kind, table in TABLES.items():
        facts = about.get(kind)
        if facts:
            known = await entities.load(conn, table.name, sorted(facts), schema)
            written.append((table, fold(table, facts, known, refused)))
    judge_alone(about, refused)
    return written, refused


def judge_alone(about: dict[str, About], refused: list[dict[Place, CoordError]]) -> None:
    """Add to `refused` what is wrong by itself of the kinds that have no table."""
    for kind, table in ALONE.items():
        for ident, facts in about.get(kind, {}).items():
            for row in facts.rows:
                refusal = _judge(table.new(*ident), fact_of(row))
                if refusal is not None and refusal.code in BY_ITSELF:
                    refused[facts.batch][row[2], row[3]] = Unbelieved(refusal)


class Facts:
    """Those of one entity, in log order.  All of them are in one batch: an entity has one partition."""

    __slots__ = ("batch", "rows")

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.rows: list[EventRow] = []


About: TypeAlias = dict[Ident, Facts]


def gathered(batches: Iterable[list[EventRow]]) -> dict[str, About]:
    """Kind → entity → its facts."""
    about: dict[str, About] = {}
    tables = GATHERED
    for number, rows in enumerate(batches):
        tenant = key = kind = id_ = add = None
        for row in rows:
            if add is not None and row[9] is id_ and row[7] is key and row[8] is kind and row[5] is tenant:
                add(row)  # as most facts of a frame: a third of the cost
                continue
            table = tables.get(row[8])
            if table is None:
                continue
            if table.heeds is not None:
                add = None
                if row[10] not in table.heeds:
                    continue
            ident = (row[5], row[7], row[9])
            entities_ = about.setdefault(row[8], {})
            facts = entities_.get(ident)
            if facts is None:
                facts = entities_[ident] = Facts(number)
            facts.rows.append(row)
            if table.heeds is None:
                tenant, key, kind, id_, add = row[5], row[7], row[8], row[9], facts.rows.append
    return about


class _Life:
    """What the table knows of one entity, and what its facts make of that."""

    __slots__ = ("fold", "lags", "newest", "place", "was_lost")

    def __init__(self, fold: Any, place: Position | None = None) -> None:
        self.fold = fold
        self.was_lost = place is not None and place[2] == entities.LOST
        self.lags = place is not None and place[2] < 0 and not self.was_lost
        """Facts that were believed are not in the fold."""
        self.place = _marked(place) if place is not None and place[2] < 0 else place
        """Where its newest fact stands; None: the table has no row of it."""
        self.newest: EventRow | None = None
        """The newest fact that was believed now."""


def _marked(place: Position) -> Position:
    """The place of a row that lags; of such a place, the place itself."""
    return place[0], place[1], -1 - place[2]


def fold(
    table: Table, facts: About, known: dict[Ident, tuple[Position, bytes]], refused: list[dict[Place, CoordError]]
) -> list[tuple[Any, ...]]:
    """The rows that `facts` make of what is `known`; what is refused is added to its batch's of `refused`."""
    rows = []
    begins, slim, columns = table.begins, table.slim, table.columns
    for ident in sorted(facts):
        found = known.get(ident)
        mine = facts[ident].rows
        if found is None:
            if mine[0][10] not in begins and not any(row[10] in begins for row in mine):
                continue
            life = _Life(table.new(*ident))
        else:
            life = _Life(msgspec.msgpack.decode(found[1], type=table.fold), found[0])
        _apply(table, ident, life, mine, refused[facts[ident].batch])
        newest = life.newest
        if newest is None:
            continue
        slim(life.fold)
        saved = _saved(table, ident, life.fold)
        if saved is not None:
            place: Position = newest[1:4]
            place = _marked(place) if life.lags else place
            rows.append((*ident, newest[0], *place, saved, *columns(life.fold)))
        elif found is not None and found[0][2] >= 0:
            before = msgspec.msgpack.decode(found[1], type=table.fold)
            rows.append((*ident, newest[0], *_marked(found[0]), found[1], *columns(before)))
    return rows


def _saved(table: Table, ident: Ident, fold: Any) -> bytes | None:
    """None: no row has room for it; the log has the facts."""
    try:
        saved = _encode(fold)
    except (OverflowError, UnicodeEncodeError) as exc:
        _log.error("projector.fold_defect", table=table.name, entity=list(ident), exc_info=exc)
        return None
    if len(saved) > limits.ENTITY_FOLD_BYTES_MAX:
        _log.error("projector.entity_too_large", table=table.name, entity=list(ident), bytes=len(saved))
        return None
    return saved


def _apply(table: Table, ident: Ident, life: _Life, mine: list[EventRow], refused: dict[Place, CoordError]) -> None:
    """Fold what is newer than the row."""
    place, newest = life.place, None
    was_known = place is not None
    is_older = False
    for row in mine:
        if place is not None:
            if row[1:4] <= place:
                continue
            is_older = newest is None and row[1] > place[0]
        fact = fact_of(row)
        refusal = _judge(life.fold, fact)
        if refusal is not None and is_older:
            refusal = _begun_anew(table, ident, life, fact, refusal)
        if refusal is None:
            newest = newest if row[10] in table.judged_only else row
            was_known = was_known or table.known(life.fold)
        elif (was_known and not is_older and not life.lags and refusal.code not in QUIET) or (
            refusal.code in BY_ITSELF and row[10] in table.begins
        ):
            refused[row[2], row[3]] = Unbelieved(refusal)
    life.newest = newest if was_known else None


def _begun_anew(table: Folded, ident: Ident, life: _Life, fact: StoredFact, refusal: Refusal) -> Refusal | None:
    """What becomes of a fact that was refused, where what is folded so far is of an older epoch."""
    if fact.event in table.begins and (life.was_lost or refusal.code not in SAME_LIFE):
        anew = table.new(*ident)
        if _judge(anew, fact) is None and table.known(anew):
            life.fold, life.lags = anew, False
            return None
    return refusal


def _judge(fold: Any, fact: StoredFact) -> Refusal | None:
    try:
        refusal: Refusal | None = fold.apply(fact)
    except Exception as exc:  # noqa: BLE001 - a defect in a fold must not stop the partition
        _log.error("projector.fold_defect", kind=fact.kind, seq=fact.seq, exc_info=exc)
        return Refusal("entity.defect", f"the fold failed: {type(exc).__name__}")
    return refusal


_OUTLIVING: Final = frozenset({"task", "workflow", "handoff"})
"""Tables whose rows stay when their log is gone."""


class Judge:
    """One entity fact by fact, judged as the projector judges it: for whoever folds a history again.

    Facts come in the order of the log, from the first that is kept.  Nothing is slimmed.
    """

    def __init__(self, kind: str, ident: Ident) -> None:
        """`kind`: one of `FOLDED`."""
        self._table = FOLDED[kind]
        self._ident = ident
        self._life = _Life(self._table.new(*ident))
        self.known = False
        """Whether any of its facts was believed: without one there was no such entity."""
        self.begun: Position | None = None
        """Where the life began that `fold` is of: in another epoch an id may have another one."""

    @property
    def fold(self) -> Any:
        """The state, as the deciders' fold leaves it."""
        return self._life.fold

    def apply(self, epoch: int, fact: StoredFact) -> Refusal | None:
        """Fold the next fact; None: it was believed, or changes nothing that is judged here."""
        table, life = self._table, self._life
        if table.heeds is not None and fact.event not in table.heeds:
            return None
        if not self.known and fact.event not in table.begins:
            return Refusal(f"{fact.kind}.unknown", "its beginning is not there")
        before = life.fold
        is_older = life.place is not None and epoch > life.place[0]
        refusal = _judge(before, fact)
        if refusal is not None and is_older:
            refusal = _begun_anew(table, self._ident, life, fact, refusal)
        if refusal is None:
            life.place = (epoch, fact.seq, fact.index)
            known = self.known or table.known(life.fold)
            if (known and not self.known) or life.fold is not before:
                self.begun, life.was_lost = life.place, False
            self.known = known
        return refusal

    @property
    def lost(self) -> bool:
        """Whether it was open when the log that held it was replaced, and has not begun again."""
        return self._life.was_lost

    def lose(self) -> None:
        """The log is replaced: what is open is lost; what is no more than what the log says is no more.

        As `coord.store.entities.lose` does it to the tables.
        """
        life = self._life
        if not self.known:
            return
        if self._table.name in _OUTLIVING:
            life.was_lost = not life.fold.ended
        else:
            life.fold, life.place, self.known = self._table.new(*self._ident), None, False


def fact_of(row: EventRow) -> StoredFact:
    """The fact that a row was made of, its data as JSON."""
    (stored_at, _, seq, idx, partition, tenant, agent, key, kind, id_, event, detail, event_id, type_, schema,
     occurred_at, correlation_id, causation_id, traceparent, text) = row  # fmt: skip
    return StoredFact(
        tenant, agent, key, kind, id_, event, tuple(detail.split(".")) if detail else (), partition, seq, idx,
        stored_at, occurred_at, event_id, type_, schema, correlation_id, causation_id, traceparent,
        text.encode() if text else b"", "json",
    )  # fmt: skip

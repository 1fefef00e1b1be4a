"""Errors of the protocol, the broker, the database, the log and what is local; and what all errors have."""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class Fault(enum.Enum):
    """Whose fault an error is: it decides who is told and who is blamed in the metrics."""

    CALLER = "caller"  # the code that called this function
    SENDER = "sender"  # whoever published the message that is being read
    BROKER = "broker"  # nats-server, or the network to it
    DATABASE = "database"  # PostgreSQL, or the network to it
    OPERATOR = "operator"  # configuration, topology, permissions, capacity
    COORD = "coord"  # a defect of coord itself


class CoordError(Exception):
    """Something coord could not do."""

    code: ClassVar[str] = "coord.error"
    retryable: ClassVar[bool] = False
    fault: ClassVar[Fault] = Fault.COORD
    remedy: ClassVar[str] = "Report this with the log lines around it."

    def __init__(self, message: str | None = None, /, **details: Any) -> None:
        """`message` defaults to the class's first docstring line; `details` are kept as fields."""
        self.message = message or (type(self).__doc__ or "").strip().partition("\n")[0]
        self.details = details
        super().__init__(self.message)

    def __str__(self) -> str:
        extra = "".join(f" {k}={v!r}" for k, v in self.details.items())
        return f"[{self.code}] {self.message}{extra}"

    def as_dict(self) -> dict[str, Any]:
        """The error as one flat record, for logs, RPC answers and dead letters."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "fault": self.fault.value,
            "remedy": self.remedy,
            "details": {k: str(v) for k, v in self.details.items()},
        }


# --- wire: a message that is not what docs/protocol.md says -----------------------------


class WireError(CoordError):
    """A message does not follow the protocol."""

    code = "wire.invalid"
    fault = Fault.SENDER
    remedy = "Compare the message with docs/protocol.md."


class InvalidToken(WireError):
    """A subject token is not 1 to 64 bytes of a-z, 0-9, '-' and '_'."""

    code = "wire.token"
    remedy = "Map the name to lower-case letters, digits, '-' and '_'; keep the original in the body."


class InvalidSubject(WireError):
    """A subject does not have the shape its prefix demands."""

    code = "wire.subject"


class InvalidEnvelope(WireError):
    """A header of the envelope is malformed or contradicts the subject."""

    code = "wire.envelope"


class InvalidPayload(WireError):
    """A body is not valid JSON or MessagePack, or not of the declared type."""

    code = "wire.payload"


class PayloadTooLarge(WireError):
    """A body is larger than its limit."""

    code = "wire.too_large"
    remedy = "Send less, or send a reference to where the rest is."


class PayloadTooDeep(WireError):
    """A body nests deeper than its limit."""

    code = "wire.too_deep"
    remedy = "Flatten the body."


class InvalidFrame(WireError):
    """A frame does not have the declared shape."""

    code = "wire.frame"


class FrameNotAllowed(WireError):
    """This kind of fact may not travel in a frame."""

    code = "wire.frame_not_allowed"
    remedy = "Send it as a single message; frames are for telemetry, status and progress."


class UnknownSpecVersion(WireError):
    """The CloudEvents version is not one this release reads."""

    code = "wire.specversion"
    remedy = "Send ce-specversion 1.0."


class UnknownSchema(WireError):
    """The payload's schema version is newer than this release knows."""

    code = "wire.schema_unknown"
    remedy = "Upgrade the readers before the writers."


class Unauthorised(WireError):
    """The author may not state this fact."""

    code = "wire.author"
    remedy = "See the table of authors in docs/protocol.md."


class KeyMismatch(WireError):
    """The ordering key is not the one this kind of entity must have."""

    code = "wire.key"
    remedy = "Facts about an agent carry the agent's name as key and id."


class RegisteredTwice(WireError):
    """A kind and event, a payload type or an upcaster is registered twice, differently."""

    code = "wire.registered_twice"
    fault = Fault.CALLER
    remedy = "One payload type per kind and event, one upcaster per version."


# --- bus: the broker ---------------------------------------------------------------------


class BusError(CoordError):
    """The broker did not do what it was asked."""

    code = "bus.error"
    fault = Fault.BROKER
    remedy = "Look at `coord doctor` and the broker's log."


class NotConnected(BusError):
    """There is no connection to the broker at the moment."""

    code = "bus.disconnected"
    retryable = True
    remedy = "See that the broker runs, and its address: `nats.urls`. Whoever was connected reconnects for ever."


class BusClosed(BusError):
    """The connection was closed for good."""

    code = "bus.closed"
    fault = Fault.CALLER
    remedy = "Open a new connection; this one was drained or closed."


class PublishTimeout(BusError):
    """No acknowledgement arrived before the deadline, after resending with the same id.

    Whether the fact is stored is unknown; publishing it again with the same id is safe.
    """

    code = "bus.publish_timeout"
    retryable = True


class PublishRefused(BusError):
    """The broker refused a publish; `server_code` is its own error code."""

    code = "bus.refused"
    fault = Fault.OPERATOR


class StreamFull(PublishRefused):
    """The stream is at its limit and refuses new messages."""

    code = "bus.stream_full"
    retryable = True
    remedy = "Wait for the window to move; look at `coord status` for what holds it back."


class NoPermission(PublishRefused):
    """The broker's permissions do not allow this subject."""

    code = "bus.no_permission"
    remedy = "Grant the subject to this user, or speak as the agent this user may speak as."


class MessageTooLarge(PublishRefused):
    """The message exceeds what the broker or the stream accepts."""

    code = "bus.too_large"
    fault = Fault.CALLER
    remedy = "Send less, or send a reference to where the rest is."


class NoStream(PublishRefused):
    """No stream is listening on this subject."""

    code = "bus.no_stream"
    retryable = True
    remedy = "Run `coord stream apply`, or wait for the stream's leader."


class WrongLastSequence(PublishRefused):
    """Somebody else wrote first: the expected last sequence did not match."""

    code = "bus.wrong_last_sequence"
    fault = Fault.CALLER
    remedy = "Read the entity again and decide anew."


class IdCollision(PublishRefused):
    """Another fact is already stored under this event id."""

    code = "bus.id_collision"
    fault = Fault.CALLER
    remedy = "Use a fresh id for a different fact."


class ApiNotFound(BusError):
    """The stream, consumer or message does not exist."""

    code = "bus.not_found"
    fault = Fault.OPERATOR
    remedy = "Run `coord stream apply`."


class ApiUnavailable(BusError):
    """JetStream does not answer: no leader, not enabled, or still starting."""

    code = "bus.api_unavailable"
    retryable = True


class PinLost(BusError):
    """Another client is pinned to this consumer now."""

    code = "bus.pin_lost"
    retryable = True
    remedy = "None: the loser waits for its turn."


class DeliveryGap(BusError):
    """A delivery was lost on the way; the consumer has to be reset."""

    code = "bus.delivery_gap"
    retryable = True
    remedy = "None: the reader goes on from its checkpoint."


class SnapshotBroken(BusError):
    """A snapshot of deciders cannot be read: it is folded anew from the log."""

    code = "decider.snapshot_broken"
    fault = Fault.COORD
    remedy = "None: the log is folded from its beginning, and a new snapshot is written."


class TooManyCapabilities(BusError):
    """The bound of capabilities that have queues is reached."""

    code = "task.capabilities_full"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Use fewer capabilities; queues that nobody uses are removed within the hour."


class Overloaded(CoordError):
    """A bound is reached and waiting did not free it; `retry_after_s` says when to come back."""

    code = "coord.overloaded"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Slow down, or add capacity; `coord top` shows which bound is reached."

    def __init__(self, message: str | None = None, /, *, retry_after_s: float = 1.0, **details: Any) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, retry_after_s=retry_after_s, **details)


class CircuitOpen(CoordError):
    """Something outside has not answered for a while; it is not asked again yet."""

    code = "coord.circuit_open"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Nothing, if it is being restarted; else see why what `circuit` names does not answer."

    def __init__(self, message: str | None = None, /, *, retry_after_s: float = 1.0, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s
        """When asking again makes sense."""


class Shed(CoordError):
    """Dropped by policy before it was sent, to keep the newest within the bounds; it is counted."""

    code = "publish.shed"
    fault = Fault.OPERATOR
    remedy = "Emit fewer samples, or find out why the broker does not take them (`coord top`)."


class SpoolUnusable(CoordError):
    """The spool's directory cannot be used: locked, another agent's, or not writable."""

    code = "publish.spool_unusable"
    fault = Fault.OPERATOR
    remedy = "Give every process a directory of its own that it may write to."


class StillSpooled(CoordError):
    """Not sent before the publisher closed; it is in the spool, and the next process with that spool sends it."""

    code = "publish.still_spooled"
    fault = Fault.BROKER
    remedy = "Nothing; start a client of the same agent with the same spool."


class FlushFailed(CoordError):
    """Some of what was accepted before flush() is not durably stored; `failures` names each."""

    code = "publish.flush_failed"
    fault = Fault.BROKER
    remedy = "Look at each failure's own code."

    def __init__(self, failures: list[tuple[str, CoordError]], /, dropped: int = 0) -> None:
        """`failures`: (subject, error), bounded; `dropped`: how many more there were."""
        self.failures = failures
        codes = sorted({e.code for _, e in failures})
        super().__init__(
            f"{len(failures) + dropped} message(s) are not stored: {', '.join(codes)}",
            first_subject=failures[0][0] if failures else "",
        )


class TopologyError(CoordError):
    """A stream or consumer is not what streams/ says."""

    code = "topology.mismatch"
    fault = Fault.OPERATOR
    remedy = "Run `coord stream plan`, then `coord stream apply`."


class DestructiveChange(TopologyError):
    """Applying the change would delete data or cannot be undone."""

    code = "topology.destructive"
    remedy = "Read the plan; if it is meant, apply with --allow-destructive."


# --- store and projection ----------------------------------------------------------------


class StoreError(CoordError):
    """The database did not do what it was asked."""

    code = "store.error"
    fault = Fault.DATABASE
    remedy = "Look at the database's log."


class DatabaseUnavailable(StoreError):
    """The database cannot be reached or cannot serve now."""

    code = "store.unavailable"
    retryable = True
    remedy = "See that it runs, and `database.url`. Services reconnect; the log holds what is not yet projected."


class DatabaseCircuitOpen(CircuitOpen, DatabaseUnavailable):
    """The database has not answered for a while; it is not asked again yet."""

    code = "store.circuit_open"
    fault = Fault.DATABASE


class DatabaseRefused(StoreError):
    """The database refused a row because of its content."""

    code = "store.refused"
    fault = Fault.SENDER


class DatabaseNotReady(StoreError):
    """The database lacks something coord needs: a login, a right, a table."""

    code = "store.not_ready"
    retryable = True  # a running service waits for the operator
    fault = Fault.OPERATOR
    remedy = "Run `coord db migrate`; look at `coord doctor`."


class DatabaseLoginRefused(DatabaseNotReady):
    """The database does not let this login in, or there is no database of this name."""

    code = "store.login_refused"
    remedy = "Check user, password and name of the database in `database.url`: `coord config show --origin`."


class MigrationFailed(StoreError):
    """A migration could not be applied or does not match what was applied before."""

    code = "store.migration"
    fault = Fault.OPERATOR
    remedy = "See `coord db status`; applied migrations are never edited."


class RetentionRefused(StoreError):
    """A retention that is shorter than the projector is behind the log."""

    code = "store.retention_refused"
    fault = Fault.OPERATOR
    remedy = "Let the projector catch up (`coord status`), or set ages.retain_days longer; then `coord db migrate`."


class CheckpointMoved(StoreError):
    """Another projector committed this partition first; this batch was rolled back."""

    code = "projection.checkpoint_moved"
    retryable = True
    fault = Fault.COORD
    remedy = "None: the loser re-reads the checkpoint and goes on."


class ProjectionStopped(CoordError):
    """A partition cannot be projected without an operator's decision."""

    code = "projection.stopped"
    fault = Fault.OPERATOR


class StreamReplaced(ProjectionStopped):
    """The stream is not the one the checkpoint was taken from."""

    code = "projection.stream_replaced"
    remedy = "Restore the stream, or start a new epoch: `coord projection new-epoch`."


class LogGap(ProjectionStopped):
    """The log no longer holds facts that were not projected yet."""

    code = "projection.log_gap"
    remedy = "Accept the loss with `coord projection new-epoch`, after finding out why the window passed the projector."


class NotStopped(CoordError):
    """This partition is not stopped: there is nothing to decide."""

    code = "projection.not_stopped"
    fault = Fault.OPERATOR
    remedy = "None: `coord projection status` shows which partitions are stopped."


class RebuildRefused(CoordError):
    """The tables cannot be made anew, or not be swapped, as things are."""

    code = "rebuild.refused"
    fault = Fault.OPERATOR
    remedy = "Do what the message says; `coord projection rebuild --drop` gives a rebuild up."


class RebuildDiffers(CoordError):
    """The rebuilt tables are not what the live ones are."""

    code = "rebuild.differs"
    fault = Fault.OPERATOR
    remedy = "Read docs/howto/rebuild.md; --accept-changes swaps them all the same."


class RebuildTakenOver(CoordError):
    """Another process goes on with this rebuild."""

    code = "rebuild.taken_over"
    fault = Fault.CALLER
    remedy = "Let one process rebuild at a time."


class RebuildBehind(CoordError):
    """Facts are projected faster than the rebuild can follow, or somebody does not let go of a table."""

    code = "rebuild.behind"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Run it again when less comes in: it goes on where it is."


# --- subscriptions and queries -----------------------------------------------------------


class LogTrimmed(CoordError):
    """The log's window has moved past the position a subscriber wanted to continue from."""

    code = "subscribe.trimmed"
    fault = Fault.CALLER
    remedy = "Read the missing part from the database, then subscribe from first_seq."


class LogReplaced(LogTrimmed):
    """The log is not the one this position belongs to: the stream was made anew."""

    code = "subscribe.replaced"
    fault = Fault.OPERATOR
    remedy = "What the old log held is in the database; subscribe again from the new log's start."


class LogUnreadable(LogTrimmed):
    """The log goes on, but the broker cannot read a part of it: a file of it is damaged."""

    code = "subscribe.unreadable"
    fault = Fault.OPERATOR
    remedy = "`coord doctor --audit` says what is damaged; read the missing part from the database, go on at first_seq."


class DurableInUse(CoordError):
    """Another subscription has taken over this durable name."""

    code = "subscribe.durable_in_use"
    fault = Fault.CALLER
    remedy = "Give each running subscription a durable name of its own."


class CursorUnreadable(CoordError):
    """The saved position of a durable subscription or of a replay cannot be read."""

    code = "subscribe.cursor_unreadable"
    fault = Fault.OPERATOR
    remedy = "Choose another durable name (a replay: another --run-id), or delete the message from stream CURSORS."


class QueryError(CoordError):
    """A query was refused."""

    code = "query.invalid"
    fault = Fault.CALLER
    remedy = "`coord query NAME --about` says what a question takes; requests of programs are in docs/protocol.md."


class UnknownQuestion(QueryError):
    """There is no question of that name, or none that a fleet may ask."""

    code = "query.unknown"
    remedy = "`coord query` lists the questions; those with a parameter `tenant` can be asked of the service."


class Unauthorized(QueryError):
    """A request over HTTP does not say, by a token that is known, whose fleet it asks about."""

    code = "query.unauthorized"
    remedy = "Send `Authorization: Bearer …` with a token of query.http.tokens."


class ServiceUnavailable(CoordError):
    """No coord service answers on this subject."""

    code = "rpc.unavailable"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Start one: `coord serve all`. One that runs is of an older release and does not know this: upgrade it."


class ServiceTooOld(CoordError):
    """What was asked for is not known to coord's services, or to one that is still there: nothing was stated."""

    code = "rpc.too_old"
    fault = Fault.OPERATOR
    remedy = "Upgrade every `coord serve` first (`coord status` names older ones), then the agents that use this."


class RemoteError(CoordError):
    """A service answered with an error that this release does not know; `remote_code` is its code."""

    code = "rpc.remote"
    remedy = "Look up the remote code in the release notes of the service."


class InvalidRequest(CoordError):
    """A request cannot be read, or lacks what it must have."""

    code = "rpc.invalid"
    fault = Fault.CALLER
    remedy = "Compare the request with docs/protocol.md."


class DeadlineExceeded(CoordError):
    """The answer did not come in time."""

    code = "coord.deadline"
    retryable = True
    fault = Fault.OPERATOR
    remedy = "Try again; look at `coord top` if it lasts."


# --- configuration and local environment -------------------------------------------------


class SettingsError(CoordError):
    """The configuration is not valid."""

    code = "settings.invalid"
    fault = Fault.OPERATOR
    remedy = "See `coord config show --origin`."


class InvalidArgument(CoordError):
    """What was given on the command line is not what the command takes."""

    code = "usage.invalid"
    fault = Fault.CALLER
    remedy = "--help says what the command takes."


class NothingFound(CoordError):
    """What was asked for is not there."""

    code = "usage.not_found"
    fault = Fault.CALLER
    remedy = "Check name, --key and --tenant; `ls` shows what there is."


class UnusableFile(CoordError):
    """A file that was named cannot be read or written; `file` is its path."""

    code = "usage.file"
    fault = Fault.CALLER
    remedy = "Name a file that can be read; what is to be written goes where there is none of that name yet."


class EnvironmentProblem(CoordError):
    """This machine lacks something coord needs."""

    code = "environment.missing"
    fault = Fault.OPERATOR
    remedy = "Do what the message says."


class RoleRefused(StoreError):
    """A login cannot be made an analyst's."""

    code = "store.role"
    fault = Fault.OPERATOR
    remedy = "Use a login of its own, without rights of another kind; whoever makes it needs CREATEROLE."


class ExtraMissing(CoordError):
    """A package is missing that an extra of coord brings."""

    code = "environment.extra"
    fault = Fault.OPERATOR
    remedy = "Install coord with the extra that is named, as in pip install 'coord[archive,nkeys]'."


# --- replay --------------------------------------------------------------------------------


class InvalidRecording(CoordError):
    """A recording cannot be read as what it is said to be."""

    code = "replay.invalid"
    fault = Fault.CALLER
    remedy = "Mend the lines that are named, or leave them out with --skip-bad."


class ReplayUncertain(CoordError):
    """A replay was cut off, and what it had stored by then cannot be found out."""

    code = "replay.uncertain"
    fault = Fault.OPERATOR
    remedy = "Start `coord serve`, whose query service is asked what the log holds, and resume."


class ReplayTakenOver(CoordError):
    """Another process goes on with this replay."""

    code = "replay.taken_over"
    fault = Fault.CALLER
    remedy = "Let one process replay a recording at a time."

"""Bounds of the protocol, the log, the projection, what serves them, and the tools around them."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# --- protocol (fixed; changing one is a protocol version) --------------------------------

PARTITIONS: Final = 16
"""Partitions of EVENTS and TELEMETRY.  Fixed: a key's partition must never move."""

TOKEN_BYTES_MAX: Final = 64
"""Longest subject token.  Keeps a full subject below the broker's 4 KiB control line."""

DETAIL_TOKENS_MAX: Final = 4
"""Tokens after `event`: capability and priority need two, a claim needs one."""

SERIES_TOKENS_MAX: Final = 4
"""Tokens of a telemetry series name."""

EVENT_BYTES_MAX: Final = 1 * MIB - 16 * KIB
"""Body of one fact.  EVENTS takes 1 MiB a message, headers included."""

HEADERS_BYTES_MAX: Final = 16 * KIB
"""All headers of a message together."""

HEADER_VALUE_BYTES_MAX: Final = 1 * KIB
"""One envelope header's decoded value (ids, traceparent, type)."""

EVENT_ID_BYTES_MAX: Final = 128
"""`ce-id`.  UUIDs need 36; foreign producers use up to about 100."""

NESTING_MAX: Final = 64
"""Depth of arrays and maps in a body.  PostgreSQL, Python and Go all manage far more."""

FRAME_ENTRIES_MAX: Final = 1_000
"""Entries of one frame."""

FRAME_BYTES_MAX: Final = 8 * MIB
"""A frame, decoded (after decompression): the guard against zip bombs."""

FRAME_MESSAGE_BYTES_MAX: Final = 1 * MIB
"""What the SDK puts in one frame message before compression, so that EVENTS takes it too."""

SCHEMA_VERSION_MAX: Final = 1_000_000
"""Largest `Coord-Schema` number."""

# --- publishing (defaults of PublisherConfig) --------------------------------------------

PUBLISH_INFLIGHT_MESSAGES: Final = 4_096
"""Unacknowledged messages per connection; the server is saturated from about 1,000."""

PUBLISH_INFLIGHT_BYTES: Final = 32 * MIB
"""Unacknowledged bytes per connection."""

PUBLISH_QUEUE_ENTRIES: Final = 65_536
"""Accepted and not yet sent, per class of service."""

PUBLISH_PACED_GROUPS: Final = 4_096
"""Keys or series whose company a publisher remembers, per class: about 200 bytes each, and four
times what it keeps open by default, so that keys in turn are still known when theirs comes."""

PUBLISH_QUEUE_BYTES: Final = 64 * MIB
"""The same in bytes."""

PUBLISH_ATTEMPT_S: Final = 2.0
"""How long one send waits for its PubAck before it is sent again with the same id."""

PUBLISH_DEADLINE_S: Final = 30.0
"""How long a fact is tried in all.  Below every duplicate_window, so that resends dedupe."""

OVERLOAD_WAIT_S: Final = 5.0
"""How long `emit` waits for room before it raises `Overloaded`."""

SPOOL_BYTES: Final = 256 * MIB
"""A spool's files: half a million facts, or half an hour without a broker at 300 a second."""

SPOOL_SEGMENT_BYTES: Final = 8 * MIB
"""One of its files; what is done leaves in these pieces."""

SPOOL_RECORDS_MAX: Final = 500_000
"""Records of a spool: each has a receipt in memory, some 500 bytes."""

SPOOL_RECORD_BYTES_MAX: Final = 2 * MIB
"""One record: a message with its headers and its key."""

SPOOL_AHEAD: Final = 256
"""Records replayed and not acknowledged: what a kill in the middle may have sent without knowing it."""

SPOOL_ASK_AFTER_S: Final = 90.0
"""Since its first send: from then on the log is asked whether it has a record, not the duplicate window."""

CLOCKS_APART_S: Final = 300.0
"""How far the clocks of broker and publisher may be apart when the log is searched for what was said at a time."""

COMPRESS_BYTES: Final = 4 * KIB
"""Frames from here on travel as zstd: plain samples by the hundred (1.5 KB) would gain a third for 8 µs, what is
larger or has text gains 1.7 to 5 times for 0.03 to 0.17 µs an entry (docs/benchmarks.md)."""

COMPRESS_LEVEL: Final = 3
"""zstd's level; 6 costs two to four times the CPU for a tenth fewer bytes."""

FLUSH_FAILURES_NAMED_MAX: Final = 100
"""Failures named one by one in FlushFailed; more are counted."""

DUPLICATE_WINDOW_S: Final = 120.0
"""Every stream's duplicate_window (streams/*.toml says the same; a test compares)."""

# --- the bus -----------------------------------------------------------------------------

RECONNECT_WAIT_S: Final = 0.1
"""Before the second try to reconnect; the first is made at once.  nats-py's 2 s would look like a dead agent."""
RECONNECT_WAITS_MAX: Final = 20
"""Of these, doubled each time, the upper half random, between two tries at most: 2 s.  Whoever holds something is to be
back, and to have said so, before `PRESENCE_SETTLE_S` is over; 5,000 clients try 3,300 times a second."""

LOG_AGE_S_MIN: Final = 600
"""The log's window is never set shorter: several times its duplicate_window and the trimmer's margin together."""
EXPIRY_WARN_DAYS: Final = 30
"""`coord doctor` warns of a certificate or login that ends sooner"""
EXPIRY_WARN_SHARE: Final = 0.25
"""and has less than this share of its life left: those that live for days are renewed with a third of it left."""
EXPIRY_SKEW_S: Final = 60.0
"""What was just issued by a machine whose clock is ahead is no news."""

LOG_DISK_MIB_MIN: Final = 64
LOG_DISK_MIB_MAX: Final = 1 << 30
"""1 PiB."""

HANDSHAKES_AT_ONCE: Final = 32
"""Of the connections that one event loop has to one server.  A server ends a handshake after 2 s, its client after 5:
where thousands began theirs together, half of them ended so, and began again."""

CONNECTION_DRAIN_S: Final = 2.0
"""Until the broker has read what was sent last; who leaves may have less."""
CONNECTION_CLOSE_S: Final = 1.0
"""For what is unsent when a connection is closed, and for its last words: a broker that stands still would hold both
for as long as it does."""
CONNECT_TIMEOUT_S: Final = 5.0
API_TIMEOUT_S: Final = 5.0
"""One JetStream API request."""
API_AGAIN_S: Final = 1.0
"""One that does no more when it comes twice is sent again after so long without an answer: without a leader nobody
answers, and whoever leads later does not know of it."""

# --- subscribing -------------------------------------------------------------------------

SUBSCRIBER_BUFFER_MESSAGES: Final = 8_192
"""Live messages waiting for a slow subscriber; beyond it, it catches up from the log."""

SUBSCRIBER_BUFFER_BYTES: Final = 16 * MIB

READ_PAGE_FACTS_MAX: Final = 500
"""Facts in one answer of the log reader."""

READ_PAGE_BYTES_MAX: Final = 768 * KIB
"""Bytes of bodies in one such answer; the answer must fit in 1 MiB."""

IDLE_AUDIT_S: Final = 5.0
"""How often at most an idle subscription asks whether it missed something (jittered)."""

IDLE_AUDIT_MAX_S: Final = 30.0
"""How rarely at least: the interval doubles while nothing comes, so that ten thousand idle agents cost little."""

CURSOR_SAVE_S: Final = 1.0
"""How often at most a durable subscription saves its position."""

RPC_TIMEOUT_S: Final = 5.0
RPC_CONCURRENCY: Final = 64
"""Requests one service instance works on at a time."""

RPC_WAITING: Final = 256
"""Requests that wait for their turn at one instance; more are refused."""

RPC_REQUEST_BYTES_MAX: Final = 64 * KIB
"""Body of one request."""

SUBSCRIBER_RECENT: Final = 65_536
"""Sequences of live messages that a subscription to a replicated log remembers between two audits."""

SUBSCRIBER_READS: Final = 8
"""Log reads in flight per connection, however many subscriptions share it."""

SUBSCRIBER_UNAVAILABLE_S: Final = 15.0
"""How long a subscription that must read the log asks before it tells its consumer that nobody answers."""

AUDIT_TIMEOUT_S: Final = 1.0
"""How long an idle audit may hold back live messages that arrive meanwhile."""

# --- status by changes (docs/adr/0040) ----------------------------------------------------

STATUS_BYTES_MAX: Final = 256 * KIB
"""Members and values of one agent's status, where it is said by changes; a usual one has about 1 KiB."""

STATUS_WHOLE_EVERY: Final = 64
"""Changes between two whole statuses: what a reader that missed one waits for at most, if nobody answers it."""

STATUS_WHOLE_AFTER_S: Final = 60.0
"""The same in seconds, for an agent that changes rarely."""

STATUS_WAITING_MAX: Final = 32
"""Changes of one agent that a reader keeps while one before them is missing."""

STATUS_ASK_FIRST_S: Final = 1.0
STATUS_ASK_MAX_S: Final = 30.0
"""How often a reader asks an agent for all of its status, doubling; an agent answers once in the first of them."""

STATUS_AGENTS_MAX: Final = 65_536
"""Agents that one follower of statuses remembers; of more, those it heard of longest ago are asked again."""

# --- projecting (defaults of ProjectorConfig) --------------------------------------------

PULL_MESSAGES: Final = 1_000
"""Messages asked for and not yet projected, per partition (single facts)."""

PULL_BYTES: Final = 1 * MIB
"""The same in bytes, for large bodies and frames; a single larger message still passes."""

PROJECT_BATCH_ROWS: Final = 10_000
"""Rows of one transaction; COPY gains little beyond.  A frame is never cut, so a batch may have one more of them."""

PROJECT_OPEN_ROWS: Final = 32_000
"""Rows decoded and not committed in one process: what its pinned partitions share, two batches each.  20 MB."""

PROJECT_OPEN_BYTES: Final = 64 * MIB
"""The same in bytes of bodies and headers, as decoded."""

PROJECT_SHARE_ROWS_MIN: Final = 250
"""The least share of a partition, whatever their number."""

PROJECT_BATCH_BYTES: Final = 16 * MIB
"""Bytes in one batch, as decoded: rows alone bound nothing, a compressed frame of 2 KB may decode to 8 MiB."""

PROJECT_TURN_ROWS: Final = 1_000
"""Rows decoded before other coroutines get a turn: about 3 ms."""

READINGS_MAX: Final = 1_024
"""Messages that one service of a process has read and the other has not yet: a tenth of a second of a flood,"""
READING_BYTES_MAX: Final = 4 * KIB
"""none of them with a longer body."""

PROJECT_WRITERS: Final = 2
"""Transactions of one projector at a time, each for all partitions that wait."""

PROJECT_HELD_UP_S: Final = 10.0
"""A transaction on its way for longer: /readyz says no.  A database that hangs refuses nothing until the statement's
time is over, and the largest batch takes a second."""

PROJECT_GAP_S: Final = 0.01
"""From the beginning of one transaction to that of the next, while few rows wait; twice that while fewer than
`PROJECT_COMPANY_ROWS` would share it.  A transaction costs coord and PostgreSQL 1 ms of CPU before its first row."""

PROJECT_COMPANY_ROWS: Final = 20
"""Worth a transaction: with them the rows cost as much as it does."""

PROJECT_CROWD_ROWS: Final = 1_000
"""So many waiting rows do not wait for the gap to pass."""

PROJECT_AT_ONCE_ROWS: Final = 100
"""A transaction of so few rows is one statement, where its rows allow it: with more COPY is cheaper."""

PROJECT_AT_ONCE_BYTES: Final = 256 * KIB
"""What such a statement carries: bodies, and the folds from before."""

PROJECT_KEPT_BYTES: Final = 8 * MIB
"""Folds of open tasks and workflows that are kept between such statements."""

ANCHOR_MESSAGES: Final = 1_000
ANCHOR_EVERY_S: Final = 10.0
"""How far apart the anchors of a partition's chain are, in messages and in time: whichever comes first."""

ANCHORS_KEEP_S: Final = 7 * 86_400.0
"""How long they are kept: far longer than a stream keeps messages (24 h)."""

ANCHORS_REMOVED_MAX: Final = 10_000
"""Anchors removed in one transaction."""

PIN_TTL_S: Final = 3.0
"""priority_timeout of the partition consumers: how long a silent owner keeps its pin."""

PULL_EXPIRES_S: Final = 1.0
"""Expiry of one pull; renewing it renews the pin."""

PULL_CALM_S: Final = 2.0
"""The same of who has waited for a pin for longer than one lives: somebody else has it, or nothing is there to be read.
A request renews nothing then, and the next is made as it expires: a message that brings the pin finds one."""

GATHER_PARTITIONS_MIN: Final = 12
"""Partitions that one consumer without a filter has to replace: each filter's consumer costs the broker 0.25 µs a
message of any partition, and what is delivered for nobody costs as much as what is."""

GATHER_NEAR_MAX: Final = 50_000
"""Sequences that a gathered partition may be behind the furthest: about a third of a second of reading again."""

GATHER_PATIENCE_S: Final = 0.25
"""How long the last partitions are waited for: those without a message are never pinned."""

GATHER_PAUSE_S: Final = 5.0
GATHER_PAUSE_MAX_S: Final = 300.0
"""Between two gatherings; doubled by trouble, so that whatever cannot be read together seldom tries."""

GATHER_MESSAGES: Final = 3_200
"""Messages asked for and not yet taken, of all partitions: of five times as many each is cold when it is decoded,
which costs 0.7 µs each."""

GATHER_MODEST: Final = 32
GATHER_MODEST_S: Final = 1.0
"""Messages that a partition asks for at a time while it expects to be gathered, and how long it expects that: what is
on its way then was sent in vain."""

GATHER_STALL_S: Final = 1.0
"""A partition that takes nothing for so long, while all wait for it, reads by itself again."""

GATHER_CROWD: Final = 32
"""While a backlog is read, a partition is woken for so many of its messages,"""

GATHER_LINGER_S: Final = 0.01
"""or after so long: sixteen wake-ups for each read of the socket, twenty messages each, cost 3 µs a message."""

GATHER_SILENCE_S: Final = 2 * PULL_EXPIRES_S
"""Without a word from the consumer that all read: sooner than of a partition's own, which all fall back on."""

GATHER_KEPT_S: Final = 10.0
"""How long the broker keeps that consumer when nobody pulls: it is forgotten, never taken over."""

RIDE_AHEAD_MAX: Final = 256
"""Sequences that a service's own shared consumer may be ahead of another's that is to feed it from now on: some 20 ms
of a flood of tasks."""

REPLICA_BEAT_S: Final = 0.5
REPLICA_GONE_S: Final = 2.0
"""Projector replicas' presence among themselves, for sharing partitions."""

TAKEOVER_S: Final = 5.0
"""A dead replica's partitions are projected by another within this."""

RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
"""Backoff of a partition against a database that is away: the circuit keeps 32 of them from it, and what
is back is to be used again within TAKEOVER_S."""
RETRY_BROKER_MAX_S: Final = 1.0
"""The same against a broker, whose silence was noticed only after three times PULL_EXPIRES_S."""

CHECKPOINT_IDLE_S: Final = 5.0
"""How often an idle partition's checkpoint follows the log's end."""

STRAYS_EVERY_S: Final = 5.0
"""How often the projector looks for messages that no partition has."""

STRAYS_PER_SWEEP: Final = 1_000
"""How many it parks at a time; each is asked for by itself."""

DEAD_LETTER_BODY_BYTES_MAX: Final = 64 * KIB
"""How much of a poison body is kept in the table; the DLQ message has as much as fits."""

NOTICE_TAGS_MAX: Final = 250
"""Tags in one notice; more turn into 'all of this partition'.

That many entities in one transaction of one partition are a backlog, of which a cache would keep little anyway:
to name up to 1,000 cost 1 µs a row there, half of it to put them in order and to write them."""

NOTICE_FACTS_MAX: Final = 32
"""Facts of a transaction of one partition up to which a notice says which tags each message touched: 20 bytes and
0.7 µs each.  Of more, which come where facts come by thousands a second, it says only what was touched by any."""

NOTICE_TENANTS_MAX: Final = 10_000
"""Tenants whose last notice a projector remembers per partition."""

# --- the window (docs/adr/0034) -----------------------------------------------------------

TRIM_BEGIN: Final = 0.57
"""Fill of the log at which its oldest messages begin to leave early; it stays below 60 %."""

TRIM_END: Final = 0.52
"""Down to this fill: a twentieth of the window in each cut."""

TRIM_LEAST: Final = 0.005
"""A cut takes at least this part of the log: it costs the broker two updates of the stream whatever it takes."""

TRIM_MARGIN_S: Final = 10.0
"""Stored time kept before the oldest message that anybody needs: while the age is lowered the cut moves on."""

TRIM_EVERY_S: Final = 1.0
"""How often the fill is looked at; jittered."""

TRIM_DURABLE_S: Final = 2.0
"""How long a trimmer waits for checkpoints to reach the disk; the WAL writer needs 0.6 s at most (3 x 200 ms)."""

FILL_ALARM: Final = 0.8
"""Fill of a stream that refuses when full at which people are told."""

SUBJECT_BYTES: Final = 512
"""Memory of the broker that a distinct subject takes; a message of the log is about one subject."""

# --- what is outside (docs/adr/0042) -----------------------------------------------------

CIRCUIT_FAILURES_MAX: Final = 5
"""Failures in a row that open a circuit: a connection cut under a few callers is none yet."""

CIRCUIT_OPEN_FIRST_S: Final = 0.5
CIRCUIT_OPEN_MAX_S: Final = 2.0
"""How long a circuit is open: what is back is noticed within this and the time of one probe."""

CIRCUIT_API_OPEN_MAX_S: Final = 1.0
"""The same for the broker's API, which is away for as long as a leader is being elected."""

CALL_RETRIES_MAX: Final = 3
"""Repeats of one question that may be asked twice."""

CALL_RETRY_FIRST_S: Final = 0.1
CALL_RETRY_MAX_S: Final = 2.0
"""Before the first repeat, doubling up to the second, half of it random."""

# --- services ----------------------------------------------------------------------------

DRAIN_S: Final = 20.0
"""SIGTERM to the end; below systemd's and Kubernetes' 30 s."""

STOP_S: Final = 4.0
"""The part of DRAIN_S kept for stopping what did not finish draining."""
LAST_WORDS_S: Final = 1.0
"""The part of it that an agent keeps for its goodbye, at most a quarter of what it has for leaving."""

PROCESSES_MAX: Final = 2 * PARTITIONS
"""Projector processes of one parent: more would have no partition (EVENTS and TELEMETRY have 16 each)."""

CHILD_BEAT_S: Final = 1.0
"""How often a child process says whether it is ready."""

CHILD_SILENT_S: Final = 5.0
"""A child that said nothing for so long is not ready."""

CHILD_ANSWER_S: Final = 2.0
"""How long /metrics waits for the children's pages."""

CHILD_END_S: Final = 1.0
"""From telling a child to stop at once to killing it."""

CHILD_LINE_BYTES_MAX: Final = 8 * MIB
"""One line between a parent and its child; a page of metrics has about 100 KiB."""

SUPERVISE_FIRST_S: Final = 0.1
SUPERVISE_MAX_S: Final = 5.0
"""Backoff of a loop that raised; jittered."""

SUPERVISE_RESET_S: Final = 30.0
"""A loop that ran this long before it raised starts its backoff anew."""

LOOP_LAG_EVERY_S: Final = 0.25
"""How often the event loop's lag is measured: a timer that costs nothing."""

HTTP_CONNECTIONS_MAX: Final = 64
"""Connections to /metrics and the probes; more are answered 503."""

HTTP_KEEP_ALIVE_S: Final = 5.0

STATS_EVERY_S: Final = 5.0
"""How often `coord serve` asks the broker and the database for the gauges of /metrics."""

# --- the dev stack -----------------------------------------------------------------------

DEV_START_S: Final = 60.0
"""A server of the dev stack accepts connections within this, crash recovery included."""

DEV_STOP_S: Final = 15.0
"""How long it may take to stop by itself before it is killed."""

DEV_COMMAND_S: Final = 120.0
"""One helper program (initdb, patchelf, apt-cache)."""

DEV_DOWNLOAD_S: Final = 300.0
"""One download from the mirror."""

DEV_LOCK_S: Final = 600.0
"""How long to wait for another process that provides the same servers."""

DEV_PORT_TRIES: Final = 5
"""Ports tried when somebody else binds the chosen one first."""

# --- replay -------------------------------------------------------------------------------

REPLAY_LINE_BYTES: Final = 64 * MIB
"""One line of a recording.  A conversation of a hundred large messages is a few MiB."""

REPLAY_DOCUMENT_BYTES: Final = 256 * MIB
"""A recording that is one JSON document is read whole; decoded it takes some times its size."""

REPLAY_NAMES_MAX: Final = 100_000
"""Different foreign names of one recording, remembered in order to refuse collisions."""

REPLAY_AHEAD: Final = 1_000
"""Statements of a replay under way at once, over all keys; within a key one at a time."""

REPLAY_TASKS: Final = 10_000
"""Requests of a replay as tasks that have not ended; a fleet that falls further behind holds the arrivals up."""

REPLAY_TALKS: Final = 16
"""Conversations of such a replay at a time."""

REPLAY_SPEAKERS: Final = 256
"""Agents of a replay with an open publisher: each is a subscription.  The longest silent is closed."""

REPLAY_PATIENCE_S: Final = 120.0
"""How long a replay waits for a broker that is away or full before it stops; it can be resumed."""

REPLAY_SAVE_EVERY_S: Final = 1.0
"""How often a replay's bookmark is written."""

REPLAY_PROBLEMS_SHOWN: Final = 20
"""Problems of a recording that are named; all are counted."""

assert PUBLISH_DEADLINE_S + PUBLISH_ATTEMPT_S < DUPLICATE_WINDOW_S, "a resend must still be recognised"
assert PUBLISH_ATTEMPT_S < PUBLISH_DEADLINE_S
assert FRAME_MESSAGE_BYTES_MAX <= FRAME_BYTES_MAX
assert FRAME_MESSAGE_BYTES_MAX + HEADERS_BYTES_MAX < SPOOL_RECORD_BYTES_MAX < SPOOL_SEGMENT_BYTES < SPOOL_BYTES
assert READ_PAGE_BYTES_MAX + READ_PAGE_FACTS_MAX * 256 <= 1 * MIB
assert READ_PAGE_FACTS_MAX < SUBSCRIBER_BUFFER_MESSAGES
assert READ_PAGE_BYTES_MAX < SUBSCRIBER_BUFFER_BYTES
assert AUDIT_TIMEOUT_S < IDLE_AUDIT_S <= IDLE_AUDIT_MAX_S
assert PULL_EXPIRES_S < PIN_TTL_S, "a pull renews the pin before it lapses"
assert PULL_CALM_S + 2 * PULL_EXPIRES_S < TAKEOVER_S, "a request that is lost with its leader is made again in time"
assert REPLICA_BEAT_S * 3 <= REPLICA_GONE_S
assert GATHER_STALL_S < GATHER_KEPT_S, "who does not pull for a moment finds its consumer again"
assert GATHER_PARTITIONS_MIN <= PARTITIONS
assert max(PIN_TTL_S, REPLICA_GONE_S) + 1.0 < TAKEOVER_S
assert PROJECT_SHARE_ROWS_MIN * 4 * PARTITIONS <= PROJECT_OPEN_ROWS, "EVENTS and TELEMETRY, two batches a partition"
assert LAST_WORDS_S < STOP_S < DRAIN_S < DRAIN_S + CONNECTION_CLOSE_S < 30, (
    "what stops us (systemd, Kubernetes) waits 30 s"
)
assert CHILD_BEAT_S * 3 <= CHILD_SILENT_S
assert 2 * CHILD_END_S < STOP_S
assert SUPERVISE_FIRST_S <= SUPERVISE_MAX_S < SUPERVISE_RESET_S
assert STATUS_BYTES_MAX < EVENT_BYTES_MAX
assert STATUS_ASK_FIRST_S <= STATUS_ASK_MAX_S <= STATUS_WHOLE_AFTER_S
assert CIRCUIT_OPEN_FIRST_S <= CIRCUIT_API_OPEN_MAX_S <= CIRCUIT_OPEN_MAX_S
assert CIRCUIT_OPEN_MAX_S + RETRY_MAX_S < TAKEOVER_S, "a database that is back is used again in time"
assert 3 * PULL_EXPIRES_S + RETRY_BROKER_MAX_S < TAKEOVER_S, "a broker that is back is used again in time"
assert CALL_RETRY_FIRST_S <= CALL_RETRY_MAX_S
assert 0 < TRIM_LEAST < TRIM_BEGIN - TRIM_END < TRIM_END < TRIM_BEGIN < 0.6 < FILL_ALARM < 1
assert SPOOL_ASK_AFTER_S + PUBLISH_ATTEMPT_S < DUPLICATE_WINDOW_S, "what is sent unasked must be recognised"
assert API_TIMEOUT_S <= TRIM_MARGIN_S / 2 < TRIM_MARGIN_S < DUPLICATE_WINDOW_S < LOG_AGE_S_MIN / 4
assert PARTITIONS & (PARTITIONS - 1) == 0

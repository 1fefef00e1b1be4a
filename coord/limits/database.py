"""Bounds of the database: connections, upkeep, rebuilding, and whoever asks."""

from __future__ import annotations

from typing import Final

from coord.limits.spine import DEAD_LETTER_BODY_BYTES_MAX, MIB, PIN_TTL_S, PROJECT_WRITERS

# --- connections, migrations ------------------------------------------------------------

POOL_MIN: Final = 5
POOL_MAX: Final = 20
POOL_IDLE_S: Final = 300.0
POOL_HEALTH_AFTER_S: Final = 30.0
"""A connection idle this long is asked `SELECT 1` before it is handed out."""

POOL_HEALTH_TIMEOUT_S: Final = 2.0
"""How long that may take: a server that is alive answers in under a millisecond."""

POOL_ACQUIRE_S: Final = 10.0
"""How long a caller waits for a connection before `Overloaded`."""

DB_CONNECT_TIMEOUT_S: Final = 5.0
DB_STATEMENT_TIMEOUT_S: Final = 30.0
DB_IDLE_IN_TRANSACTION_S: Final = 2.0
"""A transaction whose client is silent is ended, before the silent one's pin lapses: a partition's
next owner, and whatever shares its transaction, would wait for the lock on the checkpoint."""

DEAD_LETTER_STATEMENT_BYTES_MAX: Final = 8 * MIB
"""Bodies in one INSERT of dead letters; a batch of poison is cut into such pieces."""

MIGRATION_LOCK_TIMEOUT_S: Final = 10.0
"""How long a migration's statement waits for a table before it gives up: whoever comes after
it waits behind it."""

MIGRATION_WAIT_S: Final = 60.0
"""How long a migration waits for another one of the same database."""

# --- upkeep (defaults of AgesConfig and MaintenanceConfig) ------------------------------

MAINTAIN_BATCH_ROWS: Final = 10_000
"""Rows deleted by one step of retention."""

MAINTAIN_STEPS_MAX: Final = 10_000
"""Steps of one run of retention: 100 million rows."""

MAINTAIN_PAUSE_S: Final = 0.05
"""Between two steps of maintenance, at least: as long as a step of 10,000 rows takes."""

ROLLUP_SETTLE_S: Final = 5.0
"""A rollup stays so far behind what is complete: the broker's clock may be corrected by as much, and those of a
cluster's servers differ.  What it has not counted, views count as they are asked."""

ROLLUP_SETTLE_MIN_S: Final = 1.0
"""And at least so far where facts come so fast that those of five seconds are too many to count each time: a leap
second that is stepped, and far more than clocks that are kept differ by."""

ROLLUP_LIVE_ROWS: Final = 10_000
"""Facts that come in between two moves of the rollups, where facts come fast: every view that reaches to now counts
them as it is asked, about a microsecond each."""

ROLLUP_EVERY_MIN_S: Final = 0.5
"""Between two moves of the rollups at least, however fast facts come."""

ROLLUP_PAUSE_MIN_S: Final = 0.005
"""Between two steps of rollups while facts come fast, or as long as the step took: they are small and many then."""

ROLLUP_LOCK_S: Final = 0.2
"""How long the index of time waits for a table that is being vacuumed before it is left for the next move."""

ROLLUP_WIDTH_MIN_S: Final = 0.01
"""A step of a rollup covers at least so much time, however dense the rows are."""

ROLLUP_WIDTH_MAX_S: Final = 7 * 86_400.0
"""And at most so much, however few there are."""

MINUTES_DAYS: Final = 30.0
"""Rollups by minute are kept so long: longer questions are about hours."""

HOURS_DAYS: Final = 730.0
"""Rollups by hour are kept so long, those by day for good."""

HOT_DAYS: Final = 7.0
"""Age at which rows are compressed (community)."""

RETAIN_DAYS: Final = 365.0
"""Rows are dropped from the database then: the end of the last age (DESIGN: cold, one year).
Nothing is dropped earlier while there is no archive that has it too."""

MAINTENANCE_EVERY_S: Final = 300.0
"""How often rollups are moved on and it is looked whether the nightly work is due; jittered by half."""

MAINTENANCE_AT: Final = "02:00"
"""When rows are dropped, UTC: while most fleets are quiet."""

MAINTENANCE_RETRY_S: Final = 3_600.0
"""After a night that was held, or whose process died in it, the next attempt; one that dies each time rests so long."""

MAINTENANCE_KEEP_S: Final = 30 * 86_400.0
"""What was done is known so long, a few thousand steps a day; of each job and table the newest step for good."""

MAINTENANCE_STATED_MAX: Final = 500
"""Facts of steps that one look publishes; a log that was away gets the rest with the next."""

# --- rebuilding the tables of entities --------------------------------------------------

REBUILD_SLICE_ROWS: Final = 1_000_000
"""Facts of a copy that a rebuild reads with one statement, which sorts them: a chunk is looked through for each."""

REBUILD_BATCH_ROWS: Final = 20_000
"""Facts that a rebuild folds with one transaction, 30 MB."""

REBUILD_STATEMENT_S: Final = 4 * 3_600.0
"""One statement of a rebuild: a look through a year of facts."""

REBUILD_TAIL_ROWS: Final = 5_000
"""Facts that may be left to be folded while the tables are swapped: half a second in which nothing is projected."""

REBUILD_ROUNDS_MAX: Final = 100
"""Rounds in which a rebuild follows the projector before it says that the projector is too fast for it."""

REBUILD_LOCK_S: Final = 1.0
"""How long a swap waits for whoever reads a table; others wait behind it meanwhile, and it tries again."""

REBUILD_SWAP_S: Final = 20.0
"""A swap as a whole; usually 100 ms."""

REBUILD_SWAP_TRIES: Final = 60
"""Tries to get the tables, a second or more apart, before a rebuild says that somebody does not let go of them."""

REBUILD_CLOCK_S: Final = 120.0
"""By how much the broker's clock may have jumped back since the last round; NTP steps are smaller."""

# --- who reads: exports, analysts, a replica, slow questions ----------------------------

EXPORT_ROWS: Final = 1_000
"""Rows of an export in memory at a time."""

EXPORT_S: Final = 4 * 3_600.0
"""A whole export.  Its snapshot keeps vacuum from what was deleted since."""

EXPORT_BATCH_BYTES: Final = 8 * 2**20
"""Text and bytes of a batch of an export, about: the next one has fewer rows where this one had more."""

EXPORT_GROUP_ROWS: Final = 65_536
EXPORT_GROUP_BYTES: Final = 32 * 2**20
"""A row group of an exported Parquet file, at most and about: what a reader of it has to hold."""

READER_STATEMENT_TIMEOUT_S: Final = 30.0
"""A statement of an analyst's login (`coord db role`)."""

READER_WATCH_S: Final = 5.0
"""How often it is looked whether a statement of a login of one fleet takes longer than it may."""

READER_GRACE_S: Final = 1.0
"""What the server's own timeout has for itself: a login that left it alone is ended by that."""

READER_IDLE_S: Final = 300.0
"""A transaction of an analyst's login of which nothing is heard: its snapshot keeps vacuum from its work."""

READER_CONNECTIONS: Final = 8
"""Connections of an analyst's login at a time."""

REPLICA_STALENESS_MAX_S: Final = 5.0
"""Reads go to a replica while what it shows is proven to be no older: what a person who looks at a list expects."""

REPLICA_STALENESS_LEAST_S: Final = 1.0
"""None below can be kept: a commit is visible up to three times wal_writer_delay (0.6 s) before it is durable."""

REPLICA_PROBE_MIN_S: Final = 0.25
REPLICA_PROBE_MAX_S: Final = 5.0
"""Primary and replica are asked for their positions a quarter of the bound apart, within these: one tiny query each."""

REPLICA_FIRST_LOOK_S: Final = 0.5
"""How long a command waits for the replica to replay what the primary had when it began; then it asks the primary."""

SLOW_QUERY_MS: Final = 100.0
"""A statement that takes longer is logged: none of coord's own does on a machine that is well."""

SLOW_SAY_EVERY_S: Final = 10.0
"""One line of the log for each statement's name: a database that is slow altogether makes hundreds a second."""

SLOW_WAITING_MAX: Final = 16
"""Slow statements that wait for their plan; more are counted only."""

SLOW_NAMES_MAX: Final = 512
"""Names of which is known when they were said last: above all that sql/queries has."""

SLOW_EXPLAIN_S: Final = 2.0
"""Waiting for a connection and for the plan; without it the line says so."""

SLOW_ARGUMENTS_MAX: Final = 100
SLOW_PLAN_CHARS: Final = 8_000

DASHBOARD_MS: Final = 100
"""A question of the dashboard set, warm, with 5 million facts in the tables, on two cores."""

QUESTION_MS: Final = 1_000
"""Any other named question, likewise."""

# --- advice -----------------------------------------------------------------------------

ADVISE_UNUSED_S: Final = 7 * 86_400.0
"""An index that was not scanned for so long is called unused: what is asked once a week is."""

ADVISE_INDEX_BYTES_MIN: Final = MIB
"""A smaller one is not worth a word."""

ADVISE_SEQ_ROWS_MIN: Final = 100_000
"""A table of so many rows that is read from end to end: 10 ms and more each time;"""

ADVISE_SEQ_SCANS_PER_H: Final = 2.0
"""and so often: nightly work may."""

ADVISE_CHUNK_MEMORY_SHARE: Final = 0.25
"""Of memory that the chunk being written to may take with its indexes: TimescaleDB's own advice."""

ADVISE_CHUNKS_MAX: Final = 1_000
"""Chunks of a table: planning a question without a bound on time takes about 0.1 ms for each."""

ADVISE_DAYS: Final = 14
"""Whole days that a forecast is made from: two of each weekday."""

ADVISE_DISK_URGENT_DAYS: Final = 14
"""A disk that may be full so soon is urgent: time to buy one."""

assert PROJECT_WRITERS <= POOL_MAX
assert POOL_MIN <= POOL_MAX
assert POOL_HEALTH_AFTER_S < POOL_IDLE_S
assert DB_IDLE_IN_TRANSACTION_S < PIN_TTL_S, "a frozen owner's locks must not outlive its pin"
assert DB_IDLE_IN_TRANSACTION_S <= DB_STATEMENT_TIMEOUT_S
assert DEAD_LETTER_BODY_BYTES_MAX <= DEAD_LETTER_STATEMENT_BYTES_MAX
assert HOT_DAYS < RETAIN_DAYS

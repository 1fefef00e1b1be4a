"""Bounds of the caches."""

from __future__ import annotations

from typing import Final

from coord.limits.spine import CHECKPOINT_IDLE_S, KIB, MIB, NOTICE_FACTS_MAX, NOTICE_TAGS_MAX, PARTITIONS

CACHE_L1_BYTES: Final = 10 * MIB
"""What one process keeps in memory, bytes actually held."""

CACHE_L1_BYTES_MIN: Final = 64 * KIB
"""Less would hold nothing of interest."""

CACHE_TTL_S: Final = 300.0
CACHE_JITTER: Final = 0.1
"""A time to live is shortened by a random part up to this: what was loaded together does not expire together."""

CACHE_NEGATIVE_TTL_S: Final = 5.0
"""How long None is kept: what is not there yet is asked for because it is about to be."""

CACHE_LOAD_S: Final = 10.0
"""How long a loader may take; its callers get `LoadTimeout` then."""

CACHE_WATERMARK_S: Final = 5.0
"""How long a read waits for the tables to have what it asks for (`min_watermark`)."""

CACHE_BEHIND_FIRST_S: Final = 0.02
CACHE_BEHIND_MAX_S: Final = 0.5
"""Between two loads of which the first saw tables older than what is known to be committed: a replica that lags."""

CACHE_LOADS_MAX: Final = 1_000
"""Loads under way in one process; the next caller waits, then is refused."""

CACHE_LOADS_WAIT_S: Final = 1.0
"""How long it waits."""

CACHE_KEY_BYTES_MAX: Final = 1 * KIB
CACHE_KEY_PARTS_MAX: Final = 16
"""Values in one key."""

CACHE_TAGS_MAX: Final = 16
"""Tags of one value."""

CACHE_TAG_BYTES_MAX: Final = 256
"""A series' tag has an agent and four tokens of 64 bytes."""

CACHE_VALUE_OBJECTS_MAX: Final = 50_000
"""Objects of one value: to count them takes 10 ms."""

CACHE_VALUE_SHARE: Final = 0.25
"""The largest value, as a part of its tier: one of the size of all would push out everything."""

CACHE_EVICTED_TAGS_MAX: Final = 4_096
"""Tags whose last eviction is remembered one by one, for loads that are under way; of what was evicted longer ago it
is only known that it may have been evicted."""

CACHE_RULES_MAX: Final = 256
"""Patterns of a configuration's map from subjects to tags."""

CACHE_FUNCTIONS_MAX: Final = 1_000
"""Functions of one cache."""

CACHE_SAMPLED_HITS: Final = 256
"""One hit in so many, on the average, is looked at: to do so takes ten times as long as a hit."""

CACHE_HOT_KEYS: Final = 1_024
"""Keys of which a process knows how often they are asked for: whichever has more than a thousandth of all reads."""

CACHE_HOT_TAGS: Final = 256
"""Tags of which it knows how many entries they evicted."""

CACHE_HOT_HALF_LIFE_S: Final = 600.0
"""What was asked for ten minutes ago counts half: twice as long as an answer is kept."""

CACHE_ASKS_MAX: Final = 16
"""Questions of operators that wait in a process for their answers; more are not answered."""

CACHE_ASKED_TAGS_MAX: Final = 256
"""Tags in one of them."""

CACHE_SHOWN_MAX: Final = 200
"""Entries in one answer: 100 KB where keys and tags are long."""

CACHE_SHOWN_CHARS: Final = 200
"""Of a value, or of a key that is none of ours."""

CACHE_ANSWERS_MAX: Final = 10_000
"""Processes whose answers one question takes."""

CACHE_HIT_TARGETS: Final[dict[str, float]] = {"l1": 0.8, "l2": 0.6, "l3": 0.4}
"""Hit rates that a tier is to have, of the reads that come to it."""

CACHE_L2_TTL_S: Final = 3_600.0
CACHE_L3_TTL_S: Final = 86_400.0
"""The longest that a shared tier keeps anything: the `max_age` of its stream."""

CACHE_ENTRY_BYTES_MAX: Final = 1 * MIB
"""An answer as a shared tier takes it, compressed; its stream's `max_msg_size`, less headers."""

CACHE_VALUE_BYTES_MAX: Final = 8 * MIB
"""What such an answer may be before it is compressed, and after it is read."""

CACHE_COMPRESS_BYTES: Final = 4 * KIB
"""Answers from here on are compressed: as telemetry's frames are."""

CACHE_TIER_S: Final = 0.25
"""How long a shared tier may take to answer; then the database is asked.  It takes 0.3 ms when it is well."""

CACHE_LEASE_S: Final = 1.0
"""How long others leave a load to whoever began it, before the next one begins it, too."""

CACHE_LEASE_LOOK_FIRST_S: Final = 0.005
CACHE_LEASE_LOOK_MAX_S: Final = 0.05
"""How often they look whether it has ended."""

CACHE_ERAS_S: Final = 5.0
"""How often a process that uses the shared tiers looks what was evicted by hand in others."""

CACHE_ERAS_MAX: Final = 256
"""Tags and keys of which that is remembered one by one; more are taken for everything."""

CACHE_TOLD_KEYS_MAX: Final = 64
"""Keys in one message about what was evicted by hand; more are taken for everything."""

CACHE_KEY_PACKED_MAX: Final = 2 * CACHE_KEY_BYTES_MAX
"""A key as shared tiers know it: its parts' lengths and types are in it."""

CACHE_STORES_MAX: Final = 64
"""Answers on their way to the shared tiers; what is more is not stored there."""

CACHE_FILTERS_MAX: Final = 16
"""Filters by which the log is asked whether one answer is current: one for each tag, more with rules."""

CACHE_WINDOW_LOOK_S: Final = 5.0
"""How often a process asks how full a shared tier is."""

CACHE_WARM_SHARE: Final = 0.1
"""The part of L1 that values may have which nobody has read yet; the oldest of them leave first."""

CACHE_WARM_LOADS_PER_S: Final = 10.0
"""Loads that a process begins which nobody has asked for."""

CACHE_WARM_LEAST: Final = 0.25
"""Of the values that a way of warming brings, so many are to be read: else it costs the database four loads to spare
one."""

CACHE_WARM_CHANCE: Final = 0.5
"""What is not as likely as that to be read in time is not brought by a forecast."""

CACHE_WARM_TRIAL: Final = 32
"""Values of which it is known what became of them, before a way is judged: with these a way that is right in half of
all cases is taken for one below a quarter once in 500 times."""

CACHE_WARM_REST_S: Final = 600.0
CACHE_WARM_REST_MAX_S: Final = 21_600.0
"""How long a way that does not pay is left alone before it is tried again; doubles each time."""

CACHE_WARM_LOOK_S: Final = 5.0
"""How often it is looked what is about to be asked for."""

CACHE_WARM_WAIT_S: Final = 2 * CHECKPOINT_IDLE_S
"""How long a process that starts waits for notices before it gives up having what is on record."""

CACHE_WARM_AT_ONCE: Final = 4
"""Of these, under way at a time."""

CACHE_WARM_TASKS_MAX: Final = 64
"""Pieces of warming under way or waiting for their turn; what a trigger would add to that is left."""

CACHE_WARM_RECORD_S: Final = 60.0
"""How often the keys asked for most are put on record."""

CACHE_WARM_RECORD_BYTES: Final = 3 * KIB
"""Of that record; CURSORS takes messages of 4 KiB."""

CACHE_LEARNT_TRIGGERS_MAX: Final = 64
CACHE_LEARNT_KEYS_MAX: Final = 64
"""Sorts of triggers whose runs are remembered, and keys of each."""

CACHE_LEARNT_RUNS_MAX: Final = 64
"""Runs that are watched at a time: with keys of the usual 100 bytes, half a megabyte."""

CACHE_LEARNT_RUNS_LEAST: Final = 3
"""Runs of a sort before anything is expected of the next."""

CACHE_LEARNT_RUN_S: Final = 120.0
"""How long after its trigger a run is watched."""

CACHE_SETTLE_S: Final = 1.0
"""In a cluster other servers hear of a subscription after the own one does: within milliseconds,
a second when routes are busy."""

NOTICE_BEAT_S: Final = 4.0
"""How often at most a projector says of each partition which session of notices it is in.  It does so when it looks,
every CHECKPOINT_IDLE_S at least: a notice that was lost with nothing behind it is found within that."""

NOTICE_TAGS_RECEIVED_MAX: Final = 4 * NOTICE_TAGS_MAX
"""A notice with more tags evicts everything: none that coord sends has them."""

NOTICE_FACTS_RECEIVED_MAX: Final = 4 * NOTICE_FACTS_MAX
"""Of a notice with more nobody is moved on."""

CACHE_MOVE_SHARE: Final = 0.125
"""What is kept of facts that may move entries on, beside L1, as a part of L1's bytes: those that wait for their notice,
and those behind the snapshots of loads that are under way."""

CACHE_MOVE_FACTS_MAX: Final = 4_096
"""Facts of notices that are remembered, with their tags, for loads that are under way."""

CACHE_MOVE_DUE_MAX: Final = 64
"""Facts that may wait for an entry to be asked for; with more it leaves."""

CACHE_MOVE_KINDS_MAX: Final = 64
"""Kinds of facts of which a process hears the contents, for all its functions."""

CACHE_DUE_S: Final = 10.0
"""An entry that facts have touched and nobody has asked for since makes room for others before one that is used."""

CACHE_SOURCES_MAX: Final = 4 * PARTITIONS
"""Partitions whose notices are followed; there are two streams."""

assert CACHE_L1_BYTES_MIN <= CACHE_L1_BYTES
assert CACHE_NEGATIVE_TTL_S < CACHE_TTL_S
assert CACHE_BEHIND_MAX_S < CACHE_WATERMARK_S < CACHE_LOAD_S
assert CACHE_TAGS_MAX < CACHE_EVICTED_TAGS_MAX
assert CACHE_COMPRESS_BYTES < CACHE_ENTRY_BYTES_MAX <= CACHE_VALUE_BYTES_MAX
assert CACHE_TTL_S <= CACHE_L2_TTL_S <= CACHE_L3_TTL_S
assert CACHE_LEASE_LOOK_MAX_S < CACHE_TIER_S < CACHE_LEASE_S < CACHE_LOAD_S
assert NOTICE_BEAT_S < CHECKPOINT_IDLE_S
assert 2 * PARTITIONS <= CACHE_SOURCES_MAX

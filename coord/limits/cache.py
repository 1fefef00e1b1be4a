"""Bounds of the caches."""

from __future__ import annotations

from typing import Final

from coord.limits.spine import CHECKPOINT_IDLE_S, KIB, MIB, NOTICE_TAGS_MAX, PARTITIONS

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

CACHE_SETTLE_S: Final = 1.0
"""In a cluster other servers hear of a subscription after the own one does: within milliseconds,
a second when routes are busy."""

NOTICE_BEAT_S: Final = 4.0
"""How often at most a projector says of each partition which session of notices it is in.  It does so when it looks,
every CHECKPOINT_IDLE_S at least: a notice that was lost with nothing behind it is found within that."""

NOTICE_TAGS_RECEIVED_MAX: Final = 4 * NOTICE_TAGS_MAX
"""A notice with more tags evicts everything: none that coord sends has them."""

CACHE_SOURCES_MAX: Final = 4 * PARTITIONS
"""Partitions whose notices are followed; there are two streams."""

assert CACHE_L1_BYTES_MIN <= CACHE_L1_BYTES
assert CACHE_NEGATIVE_TTL_S < CACHE_TTL_S
assert CACHE_BEHIND_MAX_S < CACHE_WATERMARK_S < CACHE_LOAD_S
assert CACHE_TAGS_MAX < CACHE_EVICTED_TAGS_MAX
assert NOTICE_BEAT_S < CHECKPOINT_IDLE_S
assert 2 * PARTITIONS <= CACHE_SOURCES_MAX

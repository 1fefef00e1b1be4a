"""Bounds of the query service."""

from __future__ import annotations

from typing import Final

from coord.limits.cache import CACHE_L1_BYTES, CACHE_L2_TTL_S, CACHE_TTL_S, CACHE_VALUE_OBJECTS_MAX, CACHE_VALUE_SHARE
from coord.limits.database import DASHBOARD_MS, DB_STATEMENT_TIMEOUT_S, POOL_MAX
from coord.limits.spine import KIB, MIB, RPC_REQUEST_BYTES_MAX, RPC_TIMEOUT_S

QUERY_PAGE_ROWS: Final = 100
QUERY_PAGE_ROWS_MAX: Final = 1_000
"""Rows in one page of an answer."""

QUERY_PAGE_BYTES: Final = 768 * KIB
"""Bytes of them: an answer must fit in 1 MiB, NATS's own default for a message."""

QUERY_ANSWER_ROWS: Final = 5_000
QUERY_ANSWER_BYTES: Final = 2 * MIB
"""What is read at once and kept as one: its pages come from one snapshot.  What follows is read when asked for."""

QUERY_FETCH_ROWS: Final = 4
"""Of the first batch from the database, before it is known how large rows are: a fact may have 8 MiB."""

QUERY_DEPTH_MAX: Final = 1_000_000
"""Rows that can be skipped to get to a page: the database walks over each.  Beyond it, ask for less at a time."""

QUERY_VALUE_BYTES_MAX: Final = 1 * KIB
"""One parameter's value."""

QUERY_TOKEN_BYTES_MAX: Final = 2 * KIB
"""An ETag names 32 partitions at most, 24 bytes each, in base64."""

QUERY_TTL_S: Final = CACHE_TTL_S
"""How long an answer is kept that only facts change, and nobody states any."""

QUERY_SHARED_TTL_S: Final = CACHE_L2_TTL_S
"""How long instances share one, where they share (`query.l2`, `query.l3`): what evicts it is proved, but not that rows
have left the tables with their age."""

QUERY_MOVING_TTL_S: Final = 5.0
"""How long one is kept that time changes by itself (seconds until now), or that no notice tells of (telemetry, dead
letters): as old it may be."""

QUERY_CLOCKS_S: Final = 1.0
"""An ETag from the future, by so much at most, is of an instance whose clock is ahead."""

QUERY_WATERMARK_S: Final = 4.0
"""How long a question waits for the tables to have what it wants to see; less than its caller waits."""

QUERY_LOAD_S: Final = 10.0
"""What one look at the tables may take.  Whoever asked has left by then (`RPC_TIMEOUT_S`); what comes is kept."""

QUERY_CONNECTIONS: Final = 8
"""To the database, of one instance."""

QUERY_QUICK_S: Final = 0.25
"""A look at the tables that takes longer is a long one: these leave a quarter of the connections to others, and what
they have been lent is recalled.  More than twice what a question of a dashboard may take (`DASHBOARD_MS`)."""

QUERY_WAIT_S: Final = 2.0
"""How long a look at the tables waits for its turn at most: less than its caller does."""

QUERY_WAITING: Final = 256
"""Looks at the tables that wait, of all fleets; one of them alone has half at most."""

QUERY_TENANTS: Final = 64
"""Fleets for which an instance keeps answers; the one that has not asked for longest makes room."""

QUERY_TENANT_BYTES: Final = CACHE_L1_BYTES
"""Of answers of one fleet."""

QUERY_HTTP_PORT: Final = 9465
"""Beside that of the probes."""

QUERY_SECRET_CHARS_MIN: Final = 16
"""A bearer token is a password that nobody types."""

assert QUERY_PAGE_BYTES < MIB
assert QUERY_PAGE_ROWS <= QUERY_PAGE_ROWS_MAX <= QUERY_ANSWER_ROWS <= CACHE_VALUE_OBJECTS_MAX
assert QUERY_ANSWER_BYTES + 64 * QUERY_ANSWER_ROWS <= CACHE_VALUE_SHARE * QUERY_TENANT_BYTES
assert QUERY_MOVING_TTL_S < QUERY_TTL_S <= QUERY_SHARED_TTL_S
assert QUERY_WATERMARK_S < RPC_TIMEOUT_S
assert QUERY_LOAD_S <= DB_STATEMENT_TIMEOUT_S
assert QUERY_CONNECTIONS <= POOL_MAX
assert DASHBOARD_MS / 1000 < QUERY_QUICK_S < QUERY_WAIT_S < RPC_TIMEOUT_S < QUERY_LOAD_S
assert 16 * QUERY_VALUE_BYTES_MAX + QUERY_TOKEN_BYTES_MAX < RPC_REQUEST_BYTES_MAX

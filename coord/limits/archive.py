"""Bounds of the archive: facts as Parquet."""

from __future__ import annotations

from typing import Final

from coord.limits.database import HOT_DAYS
from coord.limits.spine import KIB, MIB

ARCHIVE_DROP_DAYS: Final = 30.0
"""Rows that are in the archive, verified, leave the database at this age (DESIGN §8: the end of warm)."""

ARCHIVE_KEEP_DAYS: Final = 365.0
"""Files of the archive are purged at this age (DESIGN §8: a year of cold)."""

ARCHIVE_PIECE_S: Final = 6 * 3_600.0
"""`plain` has no chunks: it is archived by spans of so long, as long as the chunks of the other editions."""

ARCHIVE_GROUP_ROWS: Final = 64 * KIB
"""Rows of a row group at most.  About 22 MB as they are and 1.5 MB compressed; DuckDB and pyarrow read groups in
parallel, and skip those that their statistics rule out."""

ARCHIVE_BATCH_BYTES: Final = 16 * MIB
"""Rows that come out of the database, and are split by tenant, day, kind and epoch, at a time."""

ARCHIVE_BUFFER_BYTES: Final = 64 * MIB
"""Rows that wait for their row group to be full, all files of a piece together: then the largest is written early."""

ARCHIVE_FILES_OPEN_MAX: Final = 32
"""Files written at once; the one not written to for longest is closed for another, and goes on in a new one.
To an object store each has a part of 10 MB in memory."""

ARCHIVE_READ_ROWS: Final = 8 * KIB
"""Rows of one batch that is read back."""

ARCHIVE_STATEMENT_S: Final = 3_600.0
"""One chunk out of the database, or into it again."""

ARCHIVE_CANCEL_S: Final = 10.0
"""An export that is cancelled waits so long for a server that says nothing; its thread ends without it then."""

ARCHIVE_DROP_S: Final = 120.0
"""Comparing a chunk with what was archived of it, and dropping it."""

ARCHIVE_LOCK_S: Final = 10.0
"""How long dropping waits for the chunk's lock; then it is left for the next run."""

ARCHIVE_SORT_KIB: Final = 64 * KIB
"""work_mem of the sort by sequence, in KiB: beyond it PostgreSQL sorts in files."""

ARCHIVE_AT_ONCE: Final = 2
"""Chunks that `coord db archive run` works on at once."""

ARCHIVE_ATTEMPTS_MAX: Final = 3
"""A piece is written so often in one run; then it is left for the next."""

ARCHIVE_RESTORE_KEEP_DAYS: Final = 7.0
"""Restored rows stay in the database at least so long."""

ARCHIVE_EVERY_S: Final = 3_600.0
"""How often the service looks for chunks that are old enough."""

assert HOT_DAYS < ARCHIVE_DROP_DAYS < ARCHIVE_KEEP_DAYS
assert ARCHIVE_BATCH_BYTES < ARCHIVE_BUFFER_BYTES

"""Errors of the archive: facts as Parquet."""

from __future__ import annotations

from coord.errors.spine import CoordError, Fault, SettingsError


class ArchiveError(CoordError):
    """The archive could not do what it was asked."""

    code = "archive.error"
    fault = Fault.OPERATOR
    remedy = "See docs/howto/archive.md."


class ArchiveNotInstalled(SettingsError):
    """pyarrow or ADBC's driver is not installed: the archive needs both."""

    code = "archive.not_installed"
    remedy = "Install coord with its extra: pip install 'coord[archive]'."


class ArchiveUnavailable(ArchiveError):
    """The archive's file system did not do what it was asked."""

    code = "archive.unavailable"
    retryable = True
    remedy = "Look at the store (full? reachable? permitted?). Nothing is dropped from the database meanwhile."


class ArchiveBusy(ArchiveError):
    """Another process archives, restores or purges on this database."""

    code = "archive.busy"
    retryable = True
    remedy = "Wait until it has ended."


class ArchiveOverlap(ArchiveError):
    """A piece cannot come back while rows of another one, of a range that overlaps its own, are in the table."""

    code = "archive.overlap"
    retryable = True
    remedy = "Restore it when the piece named was dropped (`coord db archive ls`), or read the files as they are."


class ArchiveCorrupted(ArchiveError):
    """A file of the archive does not hold what was written into it."""

    code = "archive.corrupted"
    remedy = "Restore the file named from a backup of the archive, or from another copy of it."


class ArchiveMismatch(ArchiveError):
    """A chunk has fewer rows than were archived of it, or others: it is neither dropped nor written again."""

    code = "archive.mismatch"
    remedy = "Find out who removed rows from the table. `coord db archive verify` says whether the files are whole."

"""Where the archive's files are: a folder or a bucket, through pyarrow's filesystems.

What was closed here survives a power cut: on a local disk files and their folders are synced, because
the rows in them are dropped from the database on the strength of that.  Object stores answer
when they have it.  Everything blocks; call it in a thread.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from coord import errors
from coord.store.config import ArchiveConfig

_READ_BYTES: Final = 1 << 20
_SYNCS_AT_ONCE: Final = 8


def arrow() -> Any:
    """pyarrow, with the parts that are needed here.  Raises `ArchiveNotInstalled`."""
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as exc:
        raise errors.ArchiveNotInstalled from exc
    return pa


@contextlib.contextmanager
def translated(op: str, path: str) -> Iterator[None]:
    """Around an operation: what the file system raises leaves the block as `ArchiveUnavailable`, naming the file."""
    try:
        yield
    except OSError as exc:  # pyarrow's own errors of input and output are OSErrors
        raise errors.ArchiveUnavailable(f"cannot {op} {path}: {exc}", path=path) from exc


class Files:
    """The archive's root.  Paths are below it, with '/'."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem: Final = filesystem
        self.root: Final = root.rstrip("/")
        self._synced = filesystem.type_name == "local"
        """Whether files must be synced by us."""

    @classmethod
    def open(cls, config: ArchiveConfig) -> Files:
        """The archive of the settings.  Raises `ArchiveError` when none is configured, `ArchiveNotInstalled`."""
        if not config.url:
            raise errors.ArchiveError("no archive is configured", setting="archive.url")
        pa = arrow()
        with translated("open the archive", config.safe_url):
            try:
                filesystem, root = pa.fs.FileSystem.from_uri(config.url)
            except pa.ArrowInvalid as exc:
                raise errors.SettingsError(f"archive.url: {exc}") from exc
        return cls(filesystem, root)

    def full(self, path: str) -> str:
        """`path` as the file system knows it."""
        return f"{self.root}/{path}"

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[Any]:
        """A stream to write a file through; what was written is there, and safe, once the block ends."""
        with translated("write", path):
            sink = self.sink(path)
            try:
                yield sink
            finally:
                sink.close()
            self.sync(path)
            self._sync_folder(path)

    def sink(self, path: str) -> Any:
        """A stream to write a file; close it, then `sync_all`.  It survives a power cut once it was moved, too."""
        self._make_folder(path)
        return self.filesystem.open_output_stream(self.full(path))

    def sync(self, path: str) -> None:
        """What is in the file survives a power cut."""
        if self._synced:
            _sync(self.full(path))

    def sync_all(self, paths: Iterable[str]) -> None:
        """What is in the files survives a power cut.  A disk that is asked for several at once writes them as one."""
        _all_at_once(self.sync, paths)

    def move(self, source: str, target: str) -> None:
        """Give a file its name, which survives a power cut after `sync_names`.  Raises `ArchiveUnavailable`."""
        with translated("move", target):
            if self._synced:  # object stores have no folders
                self.filesystem.create_dir(str(self._folder(target)), recursive=True)
            self.filesystem.move(self.full(source), self.full(target))

    def sync_names(self, paths: Iterable[str]) -> None:
        """The files' names, and those of their folders up to the root, whoever made them, survive a power cut."""
        if self._synced:
            folders: set[str] = set()
            for path in paths:
                folder = self._folder(path)
                folders |= {str(f) for f in (folder, *folder.parents) if f.is_relative_to(self.root)}
            _all_at_once(_sync, folders)

    def size(self, path: str) -> int | None:
        """Bytes of a file; None: there is none."""
        with translated("look at", path):
            info = self.filesystem.get_file_info(self.full(path))
        return int(info.size) if info.is_file else None

    def read(self, path: str) -> Any:
        """A file to read at random."""
        with translated("read", path):
            return self.filesystem.open_input_file(self.full(path))

    def sha256(self, path: str) -> str:
        """The checksum of a file's bytes as they come back."""
        digest = hashlib.sha256()
        with translated("read", path), self.filesystem.open_input_stream(self.full(path)) as stream:
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is removed already."""
        with translated("remove", path), contextlib.suppress(FileNotFoundError):
            if self.filesystem.get_file_info(self.full(path)).is_file:
                self.filesystem.delete_file(self.full(path))

    def remove_folder(self, path: str) -> None:
        """Remove a folder and all in it; one that is not there is removed already."""
        with translated("remove", path), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.full(path))

    def _folder(self, path: str) -> PurePosixPath:
        return PurePosixPath(self.full(path)).parent

    def _sync_folder(self, path: str) -> None:
        if self._synced:
            _sync(str(self._folder(path)))

    def _make_folder(self, path: str) -> None:
        parent = self._folder(path)
        if self._synced and not os.path.isdir(parent):  # noqa: PTH112 - a path of pyarrow's
            above = parent
            while not os.path.isdir(above):  # noqa: PTH112
                above = above.parent
            self.filesystem.create_dir(str(parent), recursive=True)
            while parent != above:
                parent = parent.parent
                _sync(str(parent))


def _all_at_once(sync: Callable[[str], None], paths: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_SYNCS_AT_ONCE, "archive-sync") as threads:
        for _ in threads.map(sync, paths):
            pass  # raises what one of them raised


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

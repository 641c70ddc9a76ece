"""The output file: locked, recovered, appended to, and on the disk before anybody is told.

Every method blocks. A run calls :meth:`Journal.append` in a thread, never two at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
from typing import TYPE_CHECKING, Final, Protocol, Self

from proxy.batch.record import Done, decode
from proxy.batch.recovery import NotOurs, Recovery, Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

_PIECE_BYTES: Final = 1 << 20


class OutputUnusable(Exception):
    """The output cannot be opened or gone on with: nothing was sent. One line, which names it."""


class OutputFailed(Exception):
    """Writing failed in the middle of a run: what was said to be done is kept. One line, which names it."""


class Output(Protocol):
    """Takes results.

    Attributes:
        done: Results that it had before this run.
        reorders: It takes results as they come, whatever order is wanted.
    """

    done: Done
    reorders: bool

    def append(self, records: Sequence[bytes]) -> None:
        """Take some; on return they are as safe as they can be. Raises ``OutputFailed``."""

    def finish(self) -> None:
        """The input is done with. Raises ``OutputFailed``."""

    def close(self) -> None: ...


class Pipe:
    """Results that go somewhere from where they cannot be read again: a pipe, a terminal, a device."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self.done = Done()
        self.reorders = False

    def append(self, records: Sequence[bytes]) -> None:
        try:
            _write(self._descriptor, b"".join(records))
        except BrokenPipeError:
            raise OutputFailed(f"{self._name}: nobody reads it any more") from None
        except OSError as error:
            raise OutputFailed(f"{self._name}: {error.strerror}") from None

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """The descriptor is the caller's."""


class Journal:
    """An output file that a later run can go on with.

    Args:
        path: Made where it does not exist. A symbolic link is followed.
        again: Results with an error are taken out, so that their lines are done again.
        ordered: ``finish`` brings the results into the order of their lines.

    Attributes:
        cut_bytes: What was cut off at the end, from a crash.

    Raises:
        OutputUnusable: No permission, no such folder, no file, used by another run, not a file of results.
    """

    def __init__(self, path: Path, *, again: bool = False, ordered: bool = False) -> None:
        self._name = str(path)
        self._path = os.path.realpath(path)
        self._ordered = ordered
        self.reorders = True
        try:
            self._descriptor = self._opened()
        except OSError as error:
            raise OutputUnusable(f"{path}: {error.strerror}") from None
        try:
            found = self._recovered()
            if again and found.done.errors:
                self._write_anew(lambda is_error: not is_error)
                found = self._recovered()
        except OSError as error:
            self.close()
            raise OutputUnusable(f"{path}: {error.strerror}") from None
        except OutputUnusable:
            self.close()
            raise
        self.done = found.done
        self.cut_bytes = found.cut_bytes
        self._size = found.keep_bytes
        self._in_order = found.in_order
        self._last = found.done.last

    def __repr__(self) -> str:
        return f"<Journal {self._name}, {self._size} bytes, {self.done!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, records: Sequence[bytes]) -> None:
        """Write results and have them on the disk.

        Raises:
            OutputFailed: Disk full, quota, a limit on the size of files. What part of them was written is taken back.
        """
        data = b"".join(records)
        try:
            _write(self._descriptor, data)
            os.fdatasync(self._descriptor)
        except OSError as error:
            # Best effort: a part that stays is cut off when a run goes on.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise OutputFailed(f"{self._name}: {error.strerror}") from None
        self._size += len(data)
        for record in records:
            read = decode(record) if self._ordered and self._in_order else None
            if read is not None:
                self._in_order = read.line > self._last
                self._last = read.line

    def finish(self) -> None:
        """Bring the results into the order of their lines, where this is wanted and they are not.

        The file is written beside itself and takes its own place in one step, so that a crash leaves the one or the
        other.

        Raises:
            OutputFailed: There is no room; the results stay as they are.
        """
        if not self._ordered or self._in_order:
            return
        try:
            self._write_anew(lambda is_error: True)
        except OSError as error:
            raise OutputFailed(
                f"{self._name}: complete, but not in order: {error.strerror}; make room and run again"
            ) from None
        self._in_order = True

    def close(self) -> None:
        """Idempotent. Frees the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _opened(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between opening and locking another run may have put a new file in its place.
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    _sync_folder(self._path)
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise OutputUnusable(f"{self._name}: another run is writing to it") from None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _recovered(self) -> Recovery:
        found = Recovery()
        try:
            found.feed(self._lines())
            found.check()
        except NotOurs as error:
            raise OutputUnusable(f"{self._name}: {error}; give another file with --out") from None
        if found.cut_bytes:
            os.ftruncate(self._descriptor, found.keep_bytes)
            os.fsync(self._descriptor)
        return found

    def _lines(self) -> Iterator[bytes]:
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            yield from file

    def _write_anew(self, wanted: Callable[[bool], bool]) -> None:
        spans = Spans()
        start = 0
        for raw in self._lines():
            read = decode(raw)
            if read is not None and wanted(read.is_error):
                spans.add(read.line, start, len(raw))
            start += len(raw)
        beside = f"{self._path}.new"
        new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it has the name, so that no other run can take it.
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(new, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
            for piece in _pieces(self._descriptor, spans.in_order()):
                _write(new, piece)
            os.fsync(new)
            os.rename(beside, self._path)
            _sync_folder(self._path)
        except OSError:
            os.close(new)
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        os.close(self._descriptor)
        self._descriptor = new


def opened(path: Path, *, again: bool = False, ordered: bool = False) -> Output:
    """The output at a path: a file that can be gone on with, or, where it is a pipe or a device, one that cannot.

    Raises:
        OutputUnusable: See :class:`Journal`.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Journal(path, again=again, ordered=ordered)
    except OSError as error:
        raise OutputUnusable(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return Journal(path, again=again, ordered=ordered)
    try:
        return Pipe(os.open(path, os.O_WRONLY | os.O_CLOEXEC), str(path))
    except OSError as error:
        raise OutputUnusable(f"{path}: {error.strerror}") from None


def _write(descriptor: int, data: bytes) -> None:
    """All of it: a full disk lets a part in before it says so."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # A terminal that is also the input, while that is waited for (``source``).
            select.select([], [descriptor], [])


def _pieces(descriptor: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of all spans, gathered."""
    held: list[bytes] = []
    size = 0
    for start, length in spans:
        held.append(os.pread(descriptor, length, start))
        size += length
        if size >= _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _sync_folder(path: str) -> None:
    """Have a file's name on the disk, too."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

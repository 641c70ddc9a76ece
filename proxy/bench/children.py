"""Programs that a measurement starts and must not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
    from types import TracebackType

PILOTLIGHT: Final = (sys.executable, "-m", "proxy")
# Without settings of the caller's. Debian keeps nginx where the path of a plain user does not look.
ENVIRON: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": str(Path(__file__).parent.parent.parent),
}
_LISTEN_S = 20.0
_STOP_S = 5.0
_POLL_S = 0.05


class ChildError(Exception):
    """A program that we need did not start, or ended on its own."""


def free_port() -> int:
    """A port of loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def pinned(cpus: Collection[int] | None) -> Iterator[None]:
    """What is started inside runs on these processors only, as with ``taskset``; ``None``: wherever we do."""
    if cpus is None:
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def processors() -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """Which processor the measured program gets, and which ones everything else; ``None`` where there is only one."""
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        return None, None
    ours = min(usable)
    return frozenset({ours}), frozenset(usable - {ours})


class Child:
    """A program with the given arguments, for as long as the context lasts.

    Args:
        arguments: Its own.
        log: Takes what it writes.
        environ: All of its environment.
        program: What is run; ``pilotlight`` where nothing else is said.
        cpus: The processors that it may use; ``None`` for ours.

    It gets a session of its own, so that a Ctrl-C on the terminal reaches only us and we decide what ends when. What it
    writes goes to its log. Leaving the context, by cancellation too, ends it: politely, then at once.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environ: Mapping[str, str],
        *,
        program: Sequence[str] = PILOTLIGHT,
        cpus: Collection[int] | None = None,
    ) -> None:
        self._arguments = arguments
        self._log = log
        self._environ = environ
        self._program = program
        self._cpus = cpus
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Child {self._name} {'running' if self.is_running else 'ended'}>"

    @property
    def _name(self) -> str:
        program = "pilotlight" if self._program is PILOTLIGHT else self._program[-1].rpartition("/")[2]
        return " ".join([program, *self._arguments])

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log, pinned(self._cpus):
            self._process = await asyncio.create_subprocess_exec(
                *self._program,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_S)
        finally:
            # Also when we are cancelled a second time while waiting.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def wait_listening(self, port: int, timeout_s: float = _LISTEN_S) -> None:
        """Return once the port takes connections.

        Raises:
            ChildError: The program ended, or the time is over; with the end of what it wrote.
        """

        async def is_listening() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await self.wait_until(is_listening, timeout_s, "did not listen")

    async def wait_until(self, condition: Callable[[], Awaitable[bool]], timeout_s: float, failing: str) -> None:
        """Return once something holds, which is looked at again and again.

        Args:
            condition: What has to hold.
            timeout_s: How long it may take.
            failing: What is said of the program where it does not, as ``did not become ready``.

        Raises:
            ChildError: The program ended, or the time is over; with the end of what it wrote.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.is_running:
                    if await condition():
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ChildError(self.describe(f"{failing} within {timeout_s:g} s")) from None
        raise ChildError(self.describe("ended on its own"))

    def describe(self, what: str) -> str:
        """One sentence about this program, and the last lines that it wrote."""
        tail = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        return "\n".join([f"`{self._name}` {what}", *(f"    {line}" for line in tail)])

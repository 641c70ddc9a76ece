"""The process around the proxy: event loop, log, signals, exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from typing import TYPE_CHECKING, Final

import uvloop

from proxy.errors import ConfigError
from proxy.observe import logs
from proxy.server.app import Proxy
from proxy.server.listen import require_c_parser
from proxy.settings import fallback_keys

if TYPE_CHECKING:
    from proxy.server.reload import Sources
    from proxy.settings import Settings

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
# Containers more than before; Python's own default is 700, of which one request makes some 200.
_COLLECT_EVERY: Final = 10_000


def run(settings: Settings, sources: Sources) -> int:
    """Run the proxy until it is told to stop.

    SIGTERM and the first SIGINT drain it; the second signal ends it at once. SIGHUP has the settings read anew.

    Returns:
        0 after a stop that was asked for, 1 when it could not start or go on, 2 when the settings turned out wrong.
    """
    try:
        require_c_parser()
    except RuntimeError as error:
        return _say(str(error), EXIT_FAILED)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, sources))


async def _run(settings: Settings, sources: Sources) -> int:
    limit = logs.install(sys.stdout.buffer, settings.log.format, settings.log.level, is_terminal=sys.stdout.isatty())
    proxy = Proxy(settings, sources=sources, fallback_keys=fallback_keys(settings, sources.environ))
    limit.on_suppressed = proxy.metrics.log_suppressed
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if proxy.reloader is not None:
        loop.add_signal_handler(signal.SIGHUP, proxy.reloader.request)
    try:
        try:
            await proxy.start()
        except OSError as error:
            return _say(f"cannot listen on {error.strerror or error}", EXIT_FAILED)
        # What has been built stays, so the garbage collector need not walk it again: 10 ms or more each time, in which
        # every stream would stand still.
        gc.collect()
        gc.freeze()
        # What a request leaves behind goes by reference counting; the walk for cycles need not come every few requests.
        gc.set_threshold(_COLLECT_EVERY)
        reason = await _until(stop, proxy.failed)
        if reason is not None:
            return _say(str(reason), EXIT_SETTINGS if isinstance(reason, ConfigError) else EXIT_FAILED)
        await proxy.drain(hurry)
        return EXIT_OK
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await proxy.aclose()


async def _until(stop: asyncio.Event, failed: asyncio.Future[Exception]) -> Exception | None:
    """Wait for a signal or a failure; the failure's reason."""
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return failed.result() if failed.done() else None


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"pilotlight: {text}\n")
    return code

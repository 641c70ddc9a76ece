"""Builds everything once and hands it down; starts it in order, and stops it in order.

start:  listening port -> admin port -> keeper; requests are relayed from the first moment, readiness is what waits
stop:   lame duck (not ready, ``Connection: close``) -> no new connections -> streams finish, or are told why not
        -> keeper -> connections to Ollama -> admin port
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from proxy import __version__
from proxy.errors import ConfigError, ShuttingDown
from proxy.observe.lag import probe_lag
from proxy.observe.metrics import Metrics
from proxy.observe.observer import Observer
from proxy.observe.recent import Recent
from proxy.observe.stats import Stats
from proxy.relay.generation import Generation
from proxy.relay.line import Relay
from proxy.relay.passing import Passing
from proxy.residency.catalogue import Catalogue
from proxy.residency.service import Residency
from proxy.server.admin import build_admin
from proxy.server.listen import BACKLOG, Listener
from proxy.settings.address import parse_address
from proxy.upstream.ollama import Ollama
from proxy.upstream.pool import Pool
from proxy.upstream.secure import SecureExchanges
from proxy.upstream.session import open_sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.settings import Settings

_log = structlog.get_logger("proxy.server")

# For the last frames to leave after the streams were told that they end.
_FLUSH_S: Final = 1.0
_CONNECTIONS_EVERY_S: Final = 1.0


class Proxy:
    """The whole program, but for the process around it.

    Args:
        settings: All of them.
        clock: Monotonic seconds.

    Attributes:
        listen_address, admin_address: ``HOST:PORT`` as bound, once started.
        failed: Resolves with the reason, a ``ConfigError`` where it is the settings', when the proxy cannot go on.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self.listen_address = ""
        self.admin_address = ""
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        via_name = f"pilotlight-{secrets.token_hex(4)}"
        via = f"1.1 {via_name}"
        connect_timeout_s = settings.upstream.connect_timeout_s
        self.metrics = Metrics([model.name for model in settings.models])
        self._recent = Recent()
        self._stats = Stats()
        self._sessions = open_sessions(
            connect_timeout_s=connect_timeout_s, via=via, user_agent=f"pilotlight/{__version__}"
        )
        ollama = Ollama(self._sessions.control, settings.upstream.url)
        catalogue = Catalogue(ollama, self.metrics)
        self._catalogue = catalogue
        self.residency = Residency(settings, ollama, catalogue, self.metrics, clock)
        self._exchanges: Pool | SecureExchanges
        if settings.upstream.url.startswith("https:"):
            self._exchanges = SecureExchanges(settings.upstream.url, self._sessions.fresh)
        else:
            self._exchanges = Pool(
                settings.upstream.url,
                connect_timeout_s=connect_timeout_s,
                on_retry=self.metrics.upstream_retry,
                clock=clock,
            )
        self._observer = Observer(
            self.metrics,
            self._recent,
            self._stats,
            structlog.get_logger("proxy.request"),
            later=asyncio.get_running_loop().call_later,
        )
        self.relay = Relay(
            Generation(settings, self._exchanges, catalogue, self.residency, self.metrics, via=via, clock=clock),
            Passing(
                settings.upstream.url,
                self._sessions,
                via=via,
                write_stall_s=settings.relay.write_stall_s,
                clock=clock,
            ),
            catalogue,
            self._observer,
            via_name=via_name,
            on_loop=self._on_loop,
            clock=clock,
        )
        self._listener = Listener(
            self.relay, on_error=self._on_error, write_stall_s=settings.relay.write_stall_s, clock=clock
        )
        self._server: asyncio.Server | None = None
        self._admin: web.AppRunner | None = None

    @property
    def is_ready(self) -> bool:
        return not self._draining and self.residency.ready

    async def start(self) -> None:
        """Listen, and begin to load.

        Raises:
            OSError: An address cannot be listened on.
        """
        address = parse_address(self._settings.listen)
        self._server = await asyncio.get_running_loop().create_server(
            self._listener, address.host, address.port, backlog=BACKLOG
        )
        self.listen_address = _bound(self._server.sockets[0].getsockname())
        await self._start_admin()
        _log.info(
            "listening", listen=self.listen_address, admin=self.admin_address, upstream=self._settings.upstream.url
        )
        self._spawn("keeper", self.residency.run())
        self._spawn("lag probe", probe_lag(self.metrics.loop_lag))
        self._spawn("connection count", self._count_connections())

    async def drain(self, hurry: asyncio.Event) -> None:
        """Stop serving, so that nobody loses an answer.

        Args:
            hurry: Once set, nothing is waited for any more.
        """
        shutdown = self._settings.shutdown
        self._draining = True
        self.relay.closing = True
        _log.info("draining", active=len(self.relay.active), lame_duck_s=shutdown.lame_duck_s)
        await _wait(hurry.wait(), shutdown.lame_duck_s)
        if self._server is not None:
            self._server.close()
        self._listener.close_idle()
        finished = asyncio.create_task(self.relay.wait_idle())
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((finished, hurried), timeout=shutdown.grace_s, return_when=asyncio.FIRST_COMPLETED)
        if self.relay.active:
            _log.warning("ending streams", active=len(self.relay.active))
            for call in list(self.relay.active):
                call.interrupt(ShuttingDown("the proxy is shutting down", retry_after_s=5))
            await asyncio.wait((finished,), timeout=_FLUSH_S)
        finished.cancel()
        hurried.cancel()

    async def aclose(self) -> None:
        """Let go of everything. Idempotent, and safe after a start that failed."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._listener.shutdown(_FLUSH_S)
        self._observer.settle()
        await self.residency.aclose()
        await self._catalogue.aclose()
        await self._exchanges.aclose()
        await self._sessions.aclose()
        if self._admin is not None:
            await self._admin.cleanup()

    async def _start_admin(self) -> None:
        address = parse_address(self._settings.admin)
        admin = build_admin(
            metrics=self.metrics,
            recent=self._recent,
            stats=self._stats,
            is_ready=lambda: self.is_ready,
            models=self.residency.models,
            settle=self._observer.settle,
        )
        self._admin = web.AppRunner(admin, access_log=None, handler_cancellation=True, shutdown_timeout=_FLUSH_S)
        await self._admin.setup()
        site = web.TCPSite(self._admin, address.host, address.port)
        await site.start()
        self.admin_address = _bound(self._admin.addresses[0])

    def _spawn(self, name: str, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(self._on_task_end)
        self._tasks.append(task)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A loop of ours that ends by itself is a bug: the process ends, so that whoever runs it starts it anew."""
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ConfigError):
            self._fail(error)
            return
        _log.error("a background task ended", task=task.get_name(), exc_info=error)
        self._fail(RuntimeError(f"{task.get_name()} ended unexpectedly"))

    def _on_error(self, what: str, error: BaseException | None) -> None:
        if what == "unhandled error":
            _log.error(what, exc_info=error)
        else:
            _log.warning(what, kind=type(error).__name__)

    def _on_loop(self) -> None:
        self._fail(ConfigError("upstream.url", "leads back to this proxy"))

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def _count_connections(self) -> None:
        while True:
            if isinstance(self._exchanges, Pool):
                self.metrics.connections(self._exchanges.idle, self._exchanges.busy)
            await asyncio.sleep(_CONNECTIONS_EVERY_S)


async def _wait(awaitable: Coroutine[object, object, object], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await awaitable
    except TimeoutError:
        return


def _bound(address: tuple[object, ...]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

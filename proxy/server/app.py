"""Builds everything once and hands it down; starts it in order, and stops it in order.

start:  listening port -> admin port -> keeper; requests are relayed from the first moment, readiness is what waits
stop:   lame duck (not ready, ``Connection: close``) -> no new connections -> streams finish, or are told why not
        -> keeper -> connections to Ollama -> admin port
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import socket
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from proxy import __version__
from proxy.admission.gate import Gate
from proxy.admission.ratelimit import RateLimits
from proxy.admission.scheduler import Scheduler
from proxy.edge.guard import Guard
from proxy.errors import ConfigError, ShuttingDown
from proxy.observe.lag import probe_lag
from proxy.observe.metrics import Metrics
from proxy.observe.observer import Observer
from proxy.observe.recent import Recent
from proxy.observe.row import printable
from proxy.observe.stats import Stats
from proxy.relay.call import DEADLINES
from proxy.relay.courier import Courier
from proxy.relay.embedding import Embedding
from proxy.relay.fallback import Fallback, Fallbacks
from proxy.relay.generation import Generation
from proxy.relay.line import Relay
from proxy.relay.memory import Memory
from proxy.relay.passing import Passing
from proxy.relay.runs import Runs
from proxy.residency.catalogue import Catalogue
from proxy.residency.service import Residency
from proxy.server.admin import build_admin
from proxy.server.listen import BACKLOG, Listener
from proxy.server.reload import Live, Reloader, burst
from proxy.settings.address import parse_address, to_listen_on
from proxy.upstream.connecting import Connecting
from proxy.upstream.ollama import Ollama
from proxy.upstream.pool import Pool
from proxy.upstream.secure import SecureExchanges
from proxy.upstream.session import open_sessions
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from proxy.relay.call import Call, Deadlines
    from proxy.server.reload import Sources
    from proxy.settings import FallbackUpstream, Settings
    from proxy.upstream.session import Sessions

_log = structlog.get_logger("proxy.server")
_audit_log = structlog.get_logger("proxy.audit")

# For the last frames to leave after the streams were told that they end.
_FLUSH_S: Final = 1.0
_CONNECTIONS_EVERY_S: Final = 1.0


class Proxy:
    """The whole program, but for the process around it.

    Args:
        settings: All of them.
        clock: Monotonic seconds.
        sources: Where they come from, so that they can be read anew; ``None``: they cannot.
        deadlines: For clients that send.
        fallback_keys: Ours for fallbacks, by the names that ``fallback.key_env`` has for them.

    Attributes:
        listen_address, admin_address: ``HOST:PORT`` as bound, once started.
        failed: Resolves with the reason, a ``ConfigError`` where it is the settings', when the proxy cannot go on.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        sources: Sources | None = None,
        *,
        deadlines: Deadlines = DEADLINES,
        fallback_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.listen_address = ""
        self.admin_address = ""
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._unfit: defaultdict[str, Counter[str]] = defaultdict(Counter)
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
        connecting = Connecting(clock=clock, on_state=self._on_breaker)
        ollama = Ollama(self._sessions.control, settings.upstream.url, connecting)
        catalogue = Catalogue(ollama, self.metrics)
        self._catalogue = catalogue
        self.residency = Residency(settings, ollama, catalogue, self.metrics, clock)
        queue = self.metrics.queue
        self._exchanges = _exchanges(settings, settings.upstream.url, self._sessions, connecting, self.metrics, clock)
        self.scheduler = _scheduler(settings)
        queue.capacity(settings.scheduler.max_queue)
        self.gate = Gate(
            self.scheduler,
            settings.scheduler.max_wait_s,
            clock,
            on_waiting=queue.waiting,
            on_waited=queue.waited,
            on_rejected=queue.rejected,
        )
        self.residency.tell(self.gate)
        courier = Courier(settings, self.metrics, via=via, clock=clock)
        self.memory = Memory(settings, self.metrics, clock=clock)
        catalogue.on_changed = self.memory.forget
        self._others = [
            _fallback(
                other,
                (fallback_keys or {}).get(other.key_env, ""),
                _exchanges(settings, other.origin, self._sessions, Connecting(clock=clock), self.metrics, clock),
            )
            for other in settings.fallback
        ]
        self._embedding = Embedding(
            settings,
            self._exchanges,
            catalogue,
            self.residency,
            self.gate,
            metrics=self.metrics,
            via=via,
            clock=clock,
        )
        limits = RateLimits(settings.rate_limit.rate_per_s, burst(settings))
        generation = Generation(
            settings,
            catalogue,
            self.residency,
            Runs(
                settings.upstream.url,
                self._exchanges,
                courier,
                self.residency,
                self.gate,
                self.memory,
                metrics=self.metrics,
                clock=clock,
            ),
            embedding=self._embedding,
            memory=self.memory,
            fallbacks=Fallbacks(
                self._others,
                courier,
                self.metrics,
                settings.upstream.url,
                own_context=settings.rewrite.own_context,
                user_agent=f"pilotlight/{__version__}",
            ),
            limits=limits,
            metrics=self.metrics,
            clock=clock,
        )
        self.guard = Guard(
            settings,
            own_names=_own_names(),
            authority=urlsplit(settings.upstream.url).netloc.encode(),
            secret=secrets.token_bytes(32),
        )
        self._observer = Observer(
            self.metrics,
            self._recent,
            self._stats,
            structlog.get_logger("proxy.request"),
            later=asyncio.get_running_loop().call_later,
        )
        self.relay = Relay(
            generation,
            Passing(
                settings.upstream.url,
                self._sessions,
                via=via,
                write_stall_s=settings.relay.write_stall_s,
                connecting=connecting,
                clock=clock,
            ),
            catalogue,
            self._observer,
            guard=self.guard,
            via_name=via_name,
            on_loop=self._on_loop,
            on_managed=_audit,
            clock=clock,
            deadlines=deadlines,
        )
        live = Live(settings, replace_keys=self.guard.replace_keys, limits=limits, residency=self.residency)
        self.reloader = None if sources is None else Reloader(sources, live.apply, self.metrics)
        self._listener = Listener(
            self.relay,
            on_error=self._on_error,
            write_stall_s=settings.relay.write_stall_s,
            clock=clock,
            deadlines=deadlines,
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
        with to_listen_on(address):
            self._server = await asyncio.get_running_loop().create_server(
                self._listener, address.host, address.port, backlog=BACKLOG
            )
        self.listen_address = _bound(self._server.sockets[0].getsockname())
        await self._start_admin()
        preset = {"preset": self._settings.preset} if self._settings.preset else {}
        upstream = self._settings.upstream.url
        _log.info("listening", listen=self.listen_address, admin=self.admin_address, upstream=upstream, **preset)
        self._spawn("keeper", self.residency.run())
        if self.reloader is not None:
            self._spawn("reloader", self.reloader.run())
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
            ending = ShuttingDown("the proxy is shutting down", retry_after_s=5)
            self.gate.close(ending)
            for call in list(self.relay.active):
                call.interrupt(ending)
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
        await self.memory.aclose()
        await self._embedding.aclose()
        await self._listener.shutdown(_FLUSH_S)
        self._observer.settle()
        self._tell_unfit()
        await self.residency.aclose()
        await self._catalogue.aclose()
        for exchanges in (self._exchanges, *(other.exchanges for other in self._others)):
            await exchanges.aclose()
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
            queue=self._queue,
            guard=self.guard,
            settle=self._observer.settle,
        )
        self._admin = web.AppRunner(admin, access_log=None, handler_cancellation=True, shutdown_timeout=_FLUSH_S)
        await self._admin.setup()
        site = web.TCPSite(self._admin, address.host, address.port)
        with to_listen_on(address):
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
            # Told once a second: anybody can cause thousands of them.
            self._unfit[what][type(error).__name__] += 1

    def _tell_unfit(self) -> None:
        for what, kinds in self._unfit.items():
            if kinds:
                _log.warning(what, count=kinds.total(), kinds=dict(kinds))
                kinds.clear()

    def _on_breaker(self, state: str) -> None:
        self.metrics.queue.breaker(state)
        if state == "open":
            _log.warning("Ollama refuses; it is only probed now", upstream=self._settings.upstream.url)

    def _queue(self) -> dict[str, object]:
        """What waits and runs, for ``/queue``. Names of clients are addresses; nothing that was asked is known here."""
        snapshot = self.scheduler.snapshot(self._clock())
        return {
            "waiting": [dataclasses.asdict(row) | {"waited_s": round(row.waited_s, 3)} for row in snapshot.waiting],
            "running": snapshot.running,
            "resident": snapshot.resident,
        }

    def _on_loop(self) -> None:
        self._fail(ConfigError("upstream.url", "leads back to this proxy"))

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def _count_connections(self) -> None:
        while True:
            if isinstance(self._exchanges, Pool):
                self.metrics.connections(self._exchanges.idle, self._exchanges.busy)
            self.metrics.queue.slots(*self.scheduler.slots())
            self.metrics.model_states(self.residency.states())
            self.memory.tell()
            self._listener.drop_slow()
            self._tell_unfit()
            await asyncio.sleep(_CONNECTIONS_EVERY_S)


def _exchanges(
    settings: Settings,
    url: str,
    sessions: Sessions,
    connecting: Connecting,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Pool | SecureExchanges:
    """The way to one Ollama."""
    if url.startswith("https:"):
        return SecureExchanges(url, sessions.fresh, connecting=connecting)
    return Pool(
        url,
        connect_timeout_s=settings.upstream.connect_timeout_s,
        on_retry=metrics.upstream_retry,
        connecting=connecting,
        max_idle=settings.upstream.max_idle,
        clock=clock,
    )


def _fallback(other: FallbackUpstream, key: str, exchanges: Pool | SecureExchanges) -> Fallback:
    return Fallback(
        urlsplit(other.url).netloc,
        exchanges,
        {canonical(name): there for name, there in other.models.items()},
        is_provider=other.kind == "openai",
        base_path=other.base_path,
        key=key,
        gets_credentials=other.client_credentials,
    )


def _scheduler(settings: Settings) -> Scheduler:
    scheduler = settings.scheduler
    return Scheduler(scheduler.parallel, scheduler.max_loaded_models, scheduler.max_queue, scheduler.ageing_s)


def _own_names() -> set[str]:
    """What this machine calls itself; no name server is asked."""
    name = socket.gethostname()
    return {name, name.partition(".")[0]}


def _audit(call: Call) -> None:
    """One line for each call that managed models, or was refused to."""
    admitted, timeline = call.admitted, call.timeline
    _audit_log.info(
        "managed",
        who=printable(call.client) if admitted is None else admitted.who,
        method=call.method,
        path=printable(call.path.partition("?")[0]),
        model=printable(timeline.model),
        status=timeline.status,
        outcome=timeline.outcome.value,
        request_id=printable(timeline.request_id),
    )


async def _wait(awaitable: Coroutine[object, object, object], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await awaitable
    except TimeoutError:
        return


def _bound(address: tuple[object, ...]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

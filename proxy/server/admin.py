"""The admin port: health, metrics, recent requests, models, statistics. Nothing here shows a prompt.

Read-only: GET and HEAD. Every answer but ``/metrics`` and those for people is JSON, errors among them. What the pages
show is handed in as callables, so that this module knows neither the relay nor the keeper.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiohttp import web

from proxy.server import live
from proxy.server.boundary import errors_as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aiohttp.typedefs import Handler, Middleware

    from proxy.edge.guard import Guard
    from proxy.observe.metrics import Metrics
    from proxy.observe.recent import Recent
    from proxy.observe.stats import Stats


# For health checks, which have no key and name the machine as they like.
_FOR_EVERYONE = frozenset(("/livez", "/readyz", "/healthz"))
# The live page has no figures of its own. Who may not read is asked by it for a key.
_FOR_VISITORS = frozenset(("/", *live.PATHS))


class Page(NamedTuple):
    """A route of the admin port."""

    path: str
    summary: str


PAGES = (
    Page("/", "the live page"),
    Page("/pages", "this list"),
    Page("/livez", "200 while the process runs"),
    Page("/readyz", "200 when requests will be answered without a load; ?verbose tells why not"),
    Page("/healthz", "another name of /readyz"),
    Page("/metrics", "for Prometheus; OpenMetrics where it is asked for"),
    Page("/requests", "the last 1,000 requests, newest first; ?limit=N"),
    Page("/models", "the models that are kept or resident"),
    Page("/queue", "what waits and what runs, in order"),
    Page("/stats", "percentiles of the first token and of the whole, per model"),
)


class AdminPages:
    """The handlers.

    Args:
        metrics, recent, stats: What the observer writes.
        is_ready: Whether ``/readyz`` says 200.
        report: What ``/readyz?verbose`` adds: anything that JSON can hold.
        models: The rows of ``/models``.
        queue: The page ``/queue``.
        extra_stats: Further sections of ``/stats``, each by its name.
        settle: Has everything told that has finished, so that no page lags behind.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        recent: Recent,
        stats: Stats,
        is_ready: Callable[[], bool],
        report: Callable[[], Mapping[str, Any]],
        models: Callable[[], Sequence[Mapping[str, Any]]],
        queue: Callable[[], Mapping[str, Any]],
        extra_stats: Callable[[], Mapping[str, Any]],
        settle: Callable[[], None],
    ) -> None:
        self._metrics = metrics
        self._recent = recent
        self._stats = stats
        self._is_ready = is_ready
        self._report = report
        self._models = models
        self._queue = queue
        self._extra_stats = extra_stats
        self._settle = settle

    async def index(self, request: web.Request) -> web.Response:
        width = max(len(page.path) for page in PAGES)
        lines = [f"{page.path:<{width}}  {page.summary}" for page in PAGES]
        return web.Response(text="\n".join(["Pilotlight, admin port", "", *lines, ""]))

    async def livez(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        is_ready = self._is_ready()
        body: dict[str, Any] = {"status": "ready" if is_ready else "not ready"}
        if "verbose" in request.query:
            body.update(self._report())
            body["models"] = list(self._models())
        return _json(body, status=200 if is_ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        self._settle()
        # In a thread: with 200 histogram children the page takes 40 ms, in which no token would be relayed.
        page, content_type = await asyncio.to_thread(self._metrics.encode, request.headers.get("Accept", ""))
        return web.Response(body=page, headers={"Content-Type": content_type})

    async def requests(self, request: web.Request) -> web.Response:
        self._settle()
        asked = request.query.get("limit", "")
        if asked and not (asked.isascii() and asked.isdigit() and len(asked) < 10):
            return _json({"error": "limit must be a whole number"}, status=400)
        return web.Response(body=self._recent.page(int(asked) if asked else None), content_type="application/json")

    async def models(self, request: web.Request) -> web.Response:
        return _json({"models": list(self._models())})

    async def queue(self, request: web.Request) -> web.Response:
        return _json(self._queue())

    async def stats(self, request: web.Request) -> web.Response:
        self._settle()
        snapshot = await asyncio.to_thread(self._stats.snapshot)
        overview = await asyncio.to_thread(self._metrics.overview)
        return _json({**snapshot, **overview, **self._extra_stats()})


def build_admin(
    *,
    metrics: Metrics,
    recent: Recent,
    stats: Stats,
    is_ready: Callable[[], bool],
    models: Callable[[], Sequence[Mapping[str, Any]]],
    report: Callable[[], Mapping[str, Any]] = dict,
    queue: Callable[[], Mapping[str, Any]] = dict,
    guard: Guard | None = None,
    extra_stats: Callable[[], Mapping[str, Any]] = dict,
    settle: Callable[[], None] = lambda: None,
) -> web.Application:
    """The application of the admin port.

    Its arguments are those of ``AdminPages``; ``guard`` decides who is answered, and ``None``: everyone.
    """
    pages = AdminPages(
        metrics=metrics,
        recent=recent,
        stats=stats,
        is_ready=is_ready,
        report=report,
        models=models,
        queue=queue,
        extra_stats=extra_stats,
        settle=settle,
    )
    app = web.Application(middlewares=[errors_as_json, *([] if guard is None else [_guarded(guard)])])
    page = live.LivePage()
    app.router.add_get("/", page.page)
    for path in live.PATHS:
        app.router.add_get(path, page.file)
    app.router.add_get("/pages", pages.index)
    app.router.add_get("/livez", pages.livez)
    app.router.add_get("/readyz", pages.readyz)
    app.router.add_get("/healthz", pages.readyz)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/requests", pages.requests)
    app.router.add_get("/models", pages.models)
    app.router.add_get("/queue", pages.queue)
    app.router.add_get("/stats", pages.stats)
    app.on_response_prepare.append(_finish_head)
    return app


def _guarded(guard: Guard) -> Middleware:
    """Nobody learns more than that the process runs who may not read."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        here = transport.get_extra_info("sockname") if transport is not None else None
        local = str(here[0]) if here else ""
        if request.path in _FOR_VISITORS:
            guard.admit_visitor(request.method, request.raw_headers, local=local)
        elif request.path not in _FOR_EVERYONE or "verbose" in request.query:
            guard.admit_reader(
                request.method,
                request.raw_headers,
                peer=str(peer[0]) if peer else "",
                local=local,
                now_unix=time.time(),
            )
        return await handler(request)

    return guarded


async def _finish_head(request: web.Request, response: web.StreamResponse) -> None:
    # Figures of this moment, and for no one but who asked.
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.pop("Server", None)


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body, default=str), status=status, headers=headers, content_type="application/json"
    )

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.metrics import Metrics
from proxy.observe.recent import Recent
from proxy.observe.stats import Stats
from proxy.observe.timeline import Timeline
from proxy.server import live
from proxy.server.admin import PAGES, build_admin
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from aiohttp.test_utils import TestClient

    Serve = Callable[[web.Application], Awaitable[TestClient[web.Request, web.Application]]]

PATHS = [page.path for page in PAGES]


class Behind:
    """What the admin port shows."""

    def __init__(self) -> None:
        self.metrics = Metrics(["llama3.2"])
        self.recent = Recent()
        self.stats = Stats()
        self.ready = True
        self.models: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        return build_admin(
            metrics=self.metrics,
            recent=self.recent,
            stats=self.stats,
            is_ready=lambda: self.ready,
            report=lambda: {"upstream": "up"},
            models=lambda: self.models,
            extra_stats=lambda: {"limits": {}},
        )


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
async def client(aiohttp_client: Serve, behind: Behind) -> TestClient[web.Request, web.Application]:
    return await aiohttp_client(behind.app())


async def test_every_page_answers_get_and_head(client: TestClient[web.Request, web.Application]) -> None:
    for path in PATHS:
        got = await client.get(path)
        head = await client.head(path)
        assert (got.status, head.status) == (200, 200), path
        assert await head.read() == b""
        assert got.headers["Cache-Control"] == "no-store"
        assert "Server" not in got.headers


async def test_other_methods_and_paths_are_refused_as_json(client: TestClient[web.Request, web.Application]) -> None:
    refused = await client.post("/metrics", json={"prompt": "my private prompt"})
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET,HEAD"
    assert await refused.json() == {"error": "method not allowed"}

    unknown = await client.get("/debug/pprof?prompt=private")
    assert unknown.status == 404
    assert await unknown.json() == {"error": "not found"}


async def test_an_error_of_our_own_is_json_without_its_text(aiohttp_client: Serve, behind: Behind) -> None:
    def broken() -> list[dict[str, Any]]:
        raise RuntimeError("the secret path")

    behind_app = build_admin(
        metrics=behind.metrics, recent=behind.recent, stats=behind.stats, is_ready=lambda: True, models=broken
    )
    client = await aiohttp_client(behind_app)

    response = await client.get("/models")

    assert response.status == 500
    assert await response.json() == {"error": "internal error"}


async def test_readiness_is_a_status_and_verbose_says_why(
    client: TestClient[web.Request, web.Application], behind: Behind
) -> None:
    for path in ("/readyz", "/healthz"):
        behind.ready = True
        ready = await client.get(path)
        assert (ready.status, await ready.json()) == (200, {"status": "ready"})

        behind.ready = False
        not_ready = await client.get(path)
        assert (not_ready.status, await not_ready.json()) == (503, {"status": "not ready"})
        verbose = await client.get(path + "?verbose")
        assert await verbose.json() == {"status": "not ready", "upstream": "up", "models": []}

    assert (await client.get("/livez")).status == 200


async def test_metrics_are_what_prometheus_reads(client: TestClient[web.Request, web.Application]) -> None:
    plain = await client.get("/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in text_string_to_metric_families(await plain.text())}
    assert {"llm_calls", "llm_call_duration_seconds", "process_cpu_seconds", "python_gc_collections"} <= families

    open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(parse_openmetrics(await open_metrics.text()))


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "application/openmetrics-text;version=x", "\xe9;;,=,"])
async def test_an_odd_accept_header_gets_a_page(client: TestClient[web.Request, web.Application], accept: str) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})

    assert response.status == 200


async def test_recent_requests_are_newest_first(
    client: TestClient[web.Request, web.Application], behind: Behind
) -> None:
    for n in range(3):
        behind.recent.add({"request_id": str(n)}, 1_800_000_000.0)

    everything = await (await client.get("/requests")).json()
    assert [row["request_id"] for row in everything["requests"]] == ["2", "1", "0"]
    newest = await (await client.get("/requests?limit=1")).json()
    assert [row["request_id"] for row in newest["requests"]] == ["2"]
    for odd in ("-1", "x", "1.5", "9" * 30, "%C2%B2"):
        assert (await client.get(f"/requests?limit={odd}")).status == 400


async def test_models_and_statistics_are_shown(
    client: TestClient[web.Request, web.Application], behind: Behind
) -> None:
    behind.models = [{"name": "llama3.2:latest", "state": "resident", "size_vram": 5}]
    t = Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 0.0, first_token=0.25, finished=1.0)
    behind.stats.add("llama3.2:latest", t)

    assert await (await client.get("/models")).json() == {"models": behind.models}
    stats = await (await client.get("/stats")).json()
    assert stats["models"]["llama3.2:latest"]["ttft"]["p95_s"] == 0.25
    assert stats["limits"] == {}
    assert stats["in_progress"] == 0


async def test_the_index_names_every_page(client: TestClient[web.Request, web.Application], behind: Behind) -> None:
    text = await (await client.get("/pages")).text()
    routes = {route.resource.canonical for route in behind.app().router.routes() if route.resource is not None}

    assert routes - set(live.PATHS) == set(PATHS)
    assert all(path in text for path in PATHS)


@pytest.mark.parametrize("path", ["/", *live.PATHS])
async def test_the_live_page_lets_nothing_in_from_elsewhere(
    client: TestClient[web.Request, web.Application], path: str
) -> None:
    reply = await client.get(path)
    policy = reply.headers["Content-Security-Policy"]
    assert reply.status == 200
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "frame-ancestors 'none'" in policy
    text = await reply.text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text

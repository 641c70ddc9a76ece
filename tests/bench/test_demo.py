from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from proxy.bench.demo import MODEL, WORKLOADS, Call, DemoError, Stage, Way, Workload, example_calls, run


@pytest.fixture
async def scene(aiohttp_server: Any) -> tuple[Stage, list[tuple[str, str, dict[str, Any]]]]:
    """Two servers that answer every call with one token, and what they were asked."""
    asked: list[tuple[str, str, dict[str, Any]]] = []

    async def start(name: str, loads_per_call: int) -> Way:
        loads = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal loads
            loads += loads_per_call
            asked.append((name, request.path, await request.json()))
            frames = ({"response": "a", "done": False}, {"done": True})
            return web.Response(text="".join(json.dumps(frame) + "\n" for frame in frames))

        async def state(request: web.Request) -> web.Response:
            return web.json_response({"loads": loads})

        app = web.Application()
        app.router.add_post("/api/{call}", answer)
        app.router.add_get("/_sim/state", state)
        url = str((await aiohttp_server(app)).make_url("")).rstrip("/")
        return Way(url, url)

    return Stage(await start("direct", 1), await start("proxied", 0), "http://127.0.0.1:1", 1.0), asked


async def test_each_call_goes_to_both_in_turn_and_only_counted_ones_count(scene: Any) -> None:
    workload = Workload("w", (Call(counted=False), Call({"keep_alive": "1s"}, path="/api/generate")))
    told: list[str] = []
    (row,) = await run(scene[0], told.append, [workload])
    assert [(name, path) for name, path, _ in scene[1]] == [
        ("direct", "/api/chat"),
        ("proxied", "/api/chat"),
        ("direct", "/api/generate"),
        ("proxied", "/api/generate"),
    ]
    assert told == ["w"]
    assert (row.direct_loads, row.proxied_loads) == (2, 0)
    assert row.direct_s > 0
    assert row.proxied_s > 0
    assert scene[1][2][2]["keep_alive"] == "1s"
    assert scene[1][2][2]["model"] == MODEL


async def test_a_call_that_fails_ends_the_demonstration_with_its_text(aiohttp_server: Any) -> None:
    url = str((await aiohttp_server(web.Application())).make_url("")).rstrip("/")
    with pytest.raises(DemoError, match="404"):
        await run(Stage(Way(url, url), Way(url, url), url, 0), str, [Workload("w", (Call(),))])


def test_every_workload_counts_something_and_asks_for_few_tokens() -> None:
    for workload in WORKLOADS:
        assert any(call.counted for call in workload.calls)
        assert all(call.body()["options"]["num_predict"] <= 8 for call in workload.calls)


def test_the_calls_to_try_name_all_three_addresses() -> None:
    text = "\n".join(example_calls(Stage(Way("http://a", ""), Way("http://b", ""), "http://c", 0)))
    assert all(url in text for url in ("http://a/api", "http://b/api", "http://c/requests"))

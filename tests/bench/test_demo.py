from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from proxy.bench.demo import MODEL, WORKLOADS, Call, DemoError, Stage, Workload, example_calls, run


@pytest.fixture
async def scene(aiohttp_server: Any) -> tuple[Stage, list[tuple[str, str, dict[str, Any]]]]:
    """Two servers that answer every call with one token, and what they were asked."""
    asked: list[tuple[str, str, dict[str, Any]]] = []

    async def start(name: str, load_ns: int) -> str:
        async def answer(request: web.Request) -> web.Response:
            asked.append((name, request.path, await request.json()))
            frames = ({"response": "a", "done": False}, {"done": True, "load_duration": load_ns})
            return web.Response(text="".join(json.dumps(frame) + "\n" for frame in frames))

        app = web.Application()
        app.router.add_post("/api/{call}", answer)
        return str((await aiohttp_server(app)).make_url("")).rstrip("/")

    return Stage(await start("direct", 10**9), await start("proxied", 0), "http://127.0.0.1:1", 1.0), asked


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
    assert len(row.direct) == len(row.proxied) == 1
    assert (row.direct[0].is_cold, row.proxied[0].is_cold) == (True, False)
    assert row.direct_s > 0
    assert scene[1][2][2]["keep_alive"] == "1s"
    assert scene[1][2][2]["model"] == MODEL


async def test_a_call_that_fails_ends_the_demonstration_with_its_text(aiohttp_server: Any) -> None:
    url = str((await aiohttp_server(web.Application())).make_url("")).rstrip("/")
    with pytest.raises(DemoError, match="answered 404"):
        await run(Stage(url, url, url, 0), str, [Workload("w", (Call(),))])


def test_every_workload_counts_something_and_asks_for_few_tokens() -> None:
    for workload in WORKLOADS:
        assert any(call.counted for call in workload.calls)
        assert all(call.body()["options"]["num_predict"] <= 8 for call in workload.calls)


def test_the_calls_to_try_name_all_three_addresses() -> None:
    text = "\n".join(example_calls(Stage("http://a", "http://b", "http://c", 0)))
    assert all(url in text for url in ("http://a/api", "http://b/api", "http://c/requests"))

"""Loading, sharing and unloading, as ``server/sched.go`` of Ollama 0.24.0 does it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.peers import until
from tests.simulator.conftest import GIB, simulated
from tests.simulator.replay import get, post

LOAD_DURATION = "load_duration"


async def load(port: int, model: str, **more: Any) -> Any:
    return (await post(port, "/api/generate", model=model, **more)).json()


async def running(port: int) -> dict[str, Any]:
    listed = (await get(port, "/api/ps")).json()["models"]
    return {model["name"]: model for model in listed}


async def test_a_loaded_model_is_not_loaded_again() -> None:
    async with simulated() as ollama:
        for _ in range(3):
            assert (await load(ollama.port, "one"))["done_reason"] == "load"
        assert ollama.loads == 1


@pytest.mark.parametrize(
    "options",
    [{"num_ctx": 2048}, {"num_batch": 64}, {"num_gpu": 99}, {"main_gpu": 1}, {"use_mmap": False}, {"num_thread": 2}],
    ids=lambda options: next(iter(options)),
)
async def test_a_changed_runner_option_reloads(options: dict[str, Any]) -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one")
        await load(ollama.port, "one", options=options)
        assert (ollama.loads, ollama.reloads) == (2, 1)


async def test_leaving_num_gpu_out_does_not_reload() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", options={"num_gpu": 99})
        await load(ollama.port, "one")
        assert ollama.reloads == 0


async def test_sampling_options_do_not_reload() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one")
        await load(ollama.port, "one", options={"temperature": 0.1, "num_predict": 5, "stop": ["x"], "seed": 1})
        assert ollama.loads == 1


async def test_models_of_one_blob_share_a_runner_under_the_name_that_loaded_it() -> None:
    async with simulated({"first": "w", "second": "w"}) as ollama:
        await load(ollama.port, "second")
        await load(ollama.port, "first")
        assert ollama.loads == 1
        assert list(await running(ollama.port)) == ["second:latest"]


async def test_context_above_the_trained_one_is_clamped_and_is_no_reason_to_reload() -> None:
    async with simulated(of={"w1": {"context_length": 1024}}) as ollama:
        for _ in range(2):
            await load(ollama.port, "one", options={"num_ctx": 9000})
        assert (await running(ollama.port))["one:latest"]["context_length"] == 1024
        assert ollama.loads == 1


async def test_keep_alive_that_has_passed_unloads() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", keep_alive="20ms")
        await until(lambda: not ollama.running)


async def test_a_pinned_model_expires_centuries_ahead_and_a_short_keep_alive_unpins_it() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", keep_alive=-1)
        assert (await running(ollama.port))["one:latest"]["expires_at"].startswith("23")
        await load(ollama.port, "one")
        assert (await running(ollama.port))["one:latest"]["expires_at"].startswith("23")
        await load(ollama.port, "one", keep_alive="10ms")
        await until(lambda: not ollama.running)


async def test_an_unload_request_unloads() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", keep_alive=-1)
        assert (await load(ollama.port, "one", keep_alive=0))["done_reason"] == "unload"
        await until(lambda: not ollama.running)


async def test_an_unload_waits_for_the_request_that_runs(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one")
        ollama.gate.close()
        answer = asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat))
        await until(lambda: ollama.gate.waiting)
        await load(ollama.port, "one", keep_alive=0)
        assert ollama.running == ["one:latest"]
        ollama.gate.open()
        assert (await answer).lines()[-1]["done"] is True
        await until(lambda: not ollama.running)


async def test_a_client_that_leaves_while_its_model_loads_takes_the_load_with_it() -> None:
    async with simulated() as ollama:
        ollama.fail("load_stall")
        leaving = asyncio.create_task(load(ollama.port, "one"))
        await until(lambda: ollama.state.scheduler.loading)
        leaving.cancel()
        await until(lambda: ollama.load_records)
        assert ollama.load_records[0].outcome == "aborted"
        assert ollama.running == []
        assert len(ollama.disconnects) == 1
        await load(ollama.port, "one")
        assert ollama.loads == 1


async def test_a_load_that_fails_answers_its_text_and_the_next_one_works() -> None:
    async with simulated() as ollama:
        ollama.fail("load_error", text="no luck")
        reply = await post(ollama.port, "/api/generate", model="one")
        assert (reply.status, reply.json()) == (500, {"error": "no luck"})
        assert (await load(ollama.port, "one"))["done"] is True


async def test_requests_for_a_loaded_model_pass_while_another_one_loads(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one")
        ollama.fail("load_stall")
        stuck = asyncio.create_task(load(ollama.port, "two"))
        await until(lambda: ollama.state.scheduler.loading)
        assert (await post(ollama.port, "/api/chat", model="one", **chat)).status == 200
        stuck.cancel()


async def test_the_queue_is_bounded() -> None:
    async with simulated(max_queue=1) as ollama:
        ollama.fail("load_stall")
        loading = asyncio.create_task(load(ollama.port, "one"))
        await until(lambda: ollama.state.scheduler.loading)
        queued = asyncio.create_task(load(ollama.port, "two"))
        await until(lambda: ollama.state.scheduler.waiting)
        reply = await post(ollama.port, "/api/generate", model="three")
        assert reply.status == 503
        assert reply.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
        loading.cancel()
        assert (await queued)["done_reason"] == "load"


async def test_the_most_recently_idle_model_of_the_shortest_keep_alive_makes_room() -> None:
    async with simulated(max_loaded=2) as ollama:
        await load(ollama.port, "one", keep_alive="1h")
        await load(ollama.port, "two", keep_alive="1m")
        await load(ollama.port, "three")
        assert sorted(ollama.running) == ["one:latest", "three:latest"]


async def test_memory_decides_who_must_go() -> None:
    async with simulated(vram_bytes=5 * GIB // 2) as ollama:
        for name in ("one", "two", "three"):
            await load(ollama.port, name)
        assert len(ollama.running) == 2


async def test_a_busy_runner_is_not_evicted_until_it_is_idle(chat: dict[str, Any]) -> None:
    async with simulated(max_loaded=1) as ollama:
        await load(ollama.port, "one")
        ollama.gate.close()
        busy = asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat))
        await until(lambda: ollama.gate.waiting)
        other = asyncio.create_task(load(ollama.port, "two"))
        passing = asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat))
        await until(lambda: len(ollama.requests) == 4)
        assert ollama.running == ["one:latest"]
        ollama.gate.open()
        assert (await busy).lines()[-1]["done"] is True
        assert (await passing).status == 200
        await other
        assert ollama.running == ["two:latest"]


async def test_what_does_not_fit_is_partly_in_memory_and_with_a_fixed_num_gpu_fails() -> None:
    async with simulated(vram_bytes=GIB // 2) as ollama:
        reply = await post(ollama.port, "/api/generate", model="one", options={"num_gpu": 99})
        assert reply.status == 500
        assert "out of memory" in reply.json()["error"]
        await load(ollama.port, "one")
        model = (await running(ollama.port))["one:latest"]
        assert model["size_vram"] == GIB // 2 < model["size"]


async def test_a_v1_call_loads_with_the_defaults_of_the_server(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", options={"num_ctx": 8192})
        await post(ollama.port, "/v1/chat/completions", model="one", messages=chat["messages"], max_tokens=1)
        assert ollama.reloads == 1


async def test_a_restart_forgets_what_was_loaded() -> None:
    async with simulated() as ollama:
        await load(ollama.port, "one", keep_alive=-1)
        await ollama.restart()
        assert await running(ollama.port) == {}
        assert (await load(ollama.port, "one"))["done_reason"] == "load"

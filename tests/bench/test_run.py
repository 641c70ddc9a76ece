from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest

from proxy.bench.results import from_json, to_json
from proxy.bench.run import Bench
from proxy.bench.workloads.noting import WARM_UP
from proxy.bench.workloads.server import Server, ServerError, UnknownModelError
from proxy.simulator import SimulatedOllama
from tests.bench.workloads.scenes import GIB, entered, plan, profile, staged
from tests.nginx import NGINX, nginx_with
from tests.peers import until

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.bench.run import Step


async def test_the_results_hold_the_sides_the_model_and_what_was_asked_for() -> None:
    told: list[Step] = []
    wanted = plan("warm", calls=2, runs=2, seed=3, header_names=("X-Team",), prompts=["why?"], prompts_name="mine.txt")
    async with staged() as stage, entered(stage, wanted, told=told) as bench:
        await bench.measure()
        run = bench.result()
        assert (run.direct.url, run.direct.version) == (stage.direct.url, "0.24.0")
        assert run.via is not None
        assert (run.via.url, run.via.version) == (stage.via_url, "0.24.0")
        asked = json.loads(stage.direct.requests_for("/api/chat")[-1].body)["messages"][0]["content"]
    assert from_json(to_json(run), "it") == run
    assert run.model is not None
    assert (run.model.name, run.model.memory_bytes, run.model.vram_bytes) == ("one", 2 * GIB, 2 * GIB)
    # With the model's small files.
    assert 2 * GIB <= (run.model.size_bytes or 0) < 2.1 * GIB
    assert (run.settings.runs, run.settings.seed, run.settings.prompts) == (2, 3, "mine.txt")
    assert run.settings.header_names == ("X-Team",)
    assert asked.endswith(": why?")
    assert not run.interrupted
    (warm,) = run.workloads
    # Both sides are warmed up, and it is said so.
    assert all(side.samples[0].excluded == WARM_UP for side in (warm.direct, warm.via))
    assert "warm-up" in warm.excluded
    assert [(each.call, each.run) for each in warm.via.samples if each.call] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    shares = [step.share for step in told]
    assert shares == sorted(shares)
    assert told[-1].what == "warm: run 2 of 2"
    assert told[-1].left_s == pytest.approx(0.0, abs=1e-6)


async def test_one_side_by_itself_has_no_ratio() -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as direct:
        bench = Bench(plan("idle"), direct, None, lambda step: None)
        await bench.prepare()
        await bench.measure()
        run = bench.result()
    (idle,) = run.workloads
    assert (run.via, idle.ratio, idle.via.samples) == (None, None, ())
    assert idle.direct.figures.ttft is not None


async def test_what_is_not_there_is_found_before_anything_is_loaded(unused_tcp_port: int) -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as direct:
        for wanted in (plan("warm", model="nope"), plan("swap", second_model="nope")):
            with pytest.raises(UnknownModelError, match="no model nope"):
                await Bench(wanted, direct, None, lambda step: None).prepare()
        async with Server("--via", f"http://127.0.0.1:{unused_tcp_port}", {}) as via:
            with pytest.raises(ServerError, match=r"--via .*cannot connect"):
                await Bench(plan("warm"), direct, via, lambda step: None).prepare()
        assert simulated.loads == 0


async def test_a_run_that_is_stopped_keeps_what_it_has() -> None:
    async with staged() as stage, entered(stage, plan("warm", calls=1000)) as bench:
        measuring = asyncio.create_task(bench.measure())
        await until(lambda: len(stage.direct.requests_for("/api/chat")) >= 8 or measuring.done())
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        run = bench.result()
    assert run.interrupted
    (warm,) = run.workloads
    assert warm.direct.figures.calls >= 4
    assert warm.direct.figures.errors == 0


async def test_a_side_that_goes_away_ends_the_run_with_what_it_has() -> None:
    async with staged() as stage, entered(stage, plan("warm", "idle", calls=1000)) as bench:
        measuring = asyncio.create_task(bench.measure())
        await until(lambda: len(stage.direct.requests_for("/api/chat")) >= 8 or measuring.done())
        stage.direct.crash()
        await measuring
        run = bench.result()
    assert bench.lost.startswith("direct does not answer any more: ")
    assert any("ended early" in note for note in run.notes)
    (warm,) = run.workloads
    assert warm.direct.figures.errors == 5
    assert warm.via.figures.ttft is not None


async def test_a_workload_that_cannot_go_on_leaves_the_others_alone() -> None:
    async with staged() as stage, entered(stage, plan("mixed-options", "idle")) as bench:
        # All that the first workload makes: two for warm-up, one of preparation, four that count.
        stage.direct.fail("status", status=500, text="out of luck", times=7, path="/api/chat")
        await bench.measure()
        run = bench.result()
    assert any(re.match("mixed-options: ended early: 5 calls in a row", note) for note in run.notes)
    mixed, idle = run.workloads
    assert mixed.direct.figures.errors == 2
    assert idle.direct.figures.errors == 0


async def test_a_workload_ends_when_its_time_is_up() -> None:
    async with staged() as stage, entered(stage, plan("mixed-options", runs=50, seconds=1.0)) as bench:
        await bench.measure()
        run = bench.result()
    assert any(re.match(r"mixed-options: ended after \d+ of 50 runs: its time was up", note) for note in run.notes)
    assert run.workloads[0].direct.figures.calls % 4 == 0


async def test_the_admin_port_tells_its_version() -> None:
    async with (
        staged() as stage,
        Server("--direct", stage.direct.url, {}) as direct,
        Server("--admin", f"http://{stage.proxy.admin_address}", {}) as admin,
    ):
        bench = Bench(plan("idle"), direct, None, lambda step: None, admin)
        await bench.prepare()
        assert any("pilotlight_build_info" in note and "version=" in note for note in bench.result().notes)
        # Ollama's own port has no such page.
        with pytest.raises(ServerError, match="GET /metrics answered 404"):
            await Bench(plan("idle"), direct, None, lambda step: None, direct).prepare()


@pytest.mark.nginx
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_an_nginx_that_buffers_is_told(buffering: str, tmp_path: Path) -> None:
    async with (
        SimulatedOllama(profile()) as simulated,
        nginx_with(tmp_path, f"location / {{ proxy_pass {simulated.url}; proxy_buffering {buffering}; }}") as via_url,
        Server("--direct", simulated.url, {}) as direct,
        Server("--via", via_url, {}) as via,
    ):
        bench = Bench(plan("warm", calls=4, num_predict=12, settle_s=0.0), direct, via, lambda step: None)
        await bench.prepare()
        await bench.measure()
        run = bench.result()
    told = [note for note in run.notes if "buffers" in note]
    if buffering == "on":
        assert told == ["via: the first token came with the last in 4 of 4 calls: something in between buffers"]
    else:
        assert told == []

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from proxy.errors import ConfigError
from tests.residency.conftest import MB, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]

ONE = {"name": "one", "options": {"num_ctx": 2048}}
TWO = {"name": "two"}
# Room for one model, and for two.
TIGHT = {"vram_bytes": 120 * MB}
ROOMY = {"vram_bytes": 250 * MB}


def events(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


# --- the start ---


async def test_kept_models_are_loaded_at_start_the_most_important_first(scene: Opens) -> None:
    async with scene(TWO, ONE) as s:
        assert not s.residency.ready
        await s.settle()
        assert [record.model for record in s.server.load_records] == ["two:latest", "one:latest"]
        assert s.residency.ready


async def test_the_checklist_tells_each_step_once(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({**ONE, "warm": [{"system": "be brief"}]}) as s:
            await s.settle()
            await s.settle()
    told = [line for line in logs if line["log_level"] == "info"]
    assert events(told) == [
        "upstream reached",
        "connection warmed",
        "model present",
        "model loaded",
        "resident",
        "ready",
        "warm-up token generated",
        "prompt cache warmed",
    ]
    assert all("seconds" in line for line in told)


async def test_without_warmup_nothing_is_done_and_it_is_ready_at_once(scene: Opens) -> None:
    async with scene(ONE, residency={"warmup": False}) as s:
        await s.settle()
        assert s.residency.ready
        assert s.server.loads == 0
        await s.chat("one")
        assert s.state("one") == "resident"


async def test_a_missing_model_is_failed_and_does_not_hold_up_the_others(scene: Opens) -> None:
    async with scene({"name": "ghost"}, ONE) as s:
        await s.settle()
        assert s.residency.ready
        assert (s.state("ghost"), s.state("one")) == ("failed", "resident")
        assert "ollama pull ghost" in s.model("ghost")["reason"]


async def test_a_missing_model_is_pulled_where_that_is_wanted(scene: Opens) -> None:
    async with scene({"name": "fresh"}, residency={"pull_missing": True}) as s:
        running = asyncio.create_task(s.residency.run())
        await until(lambda: s.residency.ready)
        running.cancel()
        assert s.state("fresh") == "resident"


async def test_kept_names_of_one_blob_with_different_options_end_the_start(scene: Opens) -> None:
    async with scene(ONE, {"name": "one-again"}) as s:
        with pytest.raises(ConfigError, match="same weights") as refused:
            await s.residency.step()
        assert refused.value.field == "models.1.options"


async def test_a_model_that_is_loaded_already_is_loaded_all_the_same(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.ollama.load("one", {}, "1h", embedding_only=False, timeout_s=5)
        await s.settle()
        assert s.model("one")["pinned"]
        assert s.model("one")["num_ctx"] == 2048


async def test_spilling_out_of_vram_is_warned_of_with_both_figures(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene(ONE, machine={"vram_bytes": 60 * MB}) as s:
            await s.settle()
            await s.settle()
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["size"] == "97 MiB"
    assert warning["vram"] == "57 MiB"
    assert "num_ctx" in warning["hint"]


# --- losses ---


async def test_an_expired_or_stopped_model_is_loaded_again(scene: Opens) -> None:
    async with scene(ONE, TWO) as s:
        await s.settle()
        await s.ollama.unload("one")
        await s.settle()
        assert s.state("one") == "resident"
        assert sorted(s.server.running) == ["one:latest", "two:latest"]


async def test_after_a_restart_models_are_back_in_time_without_anyone_asking(scene: Opens) -> None:
    check_every_s = 0.2
    async with scene(ONE, TWO, residency={"check_every_s": check_every_s}, load_scale=1.0) as s:
        running = asyncio.create_task(s.residency.run())
        await until(lambda: s.residency.ready)
        before = len(s.server.load_records)
        s.server.crash()
        await until(lambda: not s.residency.ready)
        await s.server.restart()
        up_at = time.monotonic()
        await until(lambda: len(s.server.running) == 2 and s.state("two") == "resident")
        assert time.monotonic() - up_at < 2 * 0.2 + check_every_s + 1.0
        assert [record.model for record in s.server.load_records[before:]] == ["one:latest", "two:latest"]
        assert s.residency.ready
        running.cancel()


async def test_a_restart_that_nobody_saw_is_noticed_by_what_is_missing(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        await s.server.restart()
        await s.settle()
        assert s.server.running == ["one:latest"]
        assert s.metric("pilotlight_model_reloads_total", model="one:latest", cause="restart") == 1


async def test_readiness_follows_ollama(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.server.crash()
        await s.residency.step()
        assert not s.residency.ready
        assert s.metric("pilotlight_upstream_up") == 0
        await s.server.restart()
        await s.settle()
        assert s.residency.ready
        assert s.metric("pilotlight_upstream_up") == 1


async def test_ollama_may_come_up_after_the_proxy(scene: Opens) -> None:
    async with scene(ONE) as s:
        s.server.crash()
        await s.residency.step()
        assert s.state("one") == "absent"
        await s.server.restart()
        await s.settle()
        assert s.state("one") == "resident"


async def test_a_kept_model_that_a_direct_client_unpinned_is_pinned_again_without_a_reload(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        await s.ollama.load("one", {"num_ctx": 2048}, "1m", embedding_only=False, timeout_s=5)
        await s.settle()
        assert s.model("one")["pinned"]
        assert s.server.loads == 1


# --- displaced ---


async def test_a_chat_with_another_model_is_not_disturbed_by_the_keeper(scene: Opens) -> None:
    async with scene(ONE, machine=TIGHT) as s:
        await s.settle()
        for _ in range(5):
            await s.chat("two")
            await s.settle()
            s.clock.advance(30)
            await s.settle()
        assert s.server.running == ["two:latest"]
        assert s.server.loads == 2
        assert s.state("one") == "lost"
        s.clock.advance(31)
        await s.settle()
        assert s.server.running == ["one:latest"]


async def test_a_long_answer_of_the_displacer_is_not_disturbed_either(scene: Opens) -> None:
    async with scene(ONE, machine=TIGHT) as s:
        await s.settle()
        s.server.gate.close()
        chat = asyncio.create_task(s.chat("two"))
        await until(lambda: s.server.gate.waiting > 0)
        s.clock.advance(600)
        await s.residency.step()
        assert s.server.running == ["two:latest"]
        s.server.gate.open()
        await chat


async def test_a_displaced_model_comes_back_on_a_request_for_it(scene: Opens) -> None:
    async with scene(ONE, machine=TIGHT) as s:
        await s.settle()
        await s.chat("two")
        await s.chat("one")
        assert s.state("one") == "resident"
        await s.settle()
        assert s.server.running == ["one:latest"]


async def test_models_that_fit_beside_each_other_stay_so(scene: Opens) -> None:
    async with scene(ONE, machine=ROOMY) as s:
        await s.settle()
        await s.chat("two")
        await s.settle()
        assert sorted(s.server.running) == ["one:latest", "two:latest"]


# --- wars ---


async def test_two_kept_models_that_do_not_fit_stop_fighting(scene: Opens) -> None:
    async with scene(ONE, TWO, machine=TIGHT) as s:
        await s.settle()
        loads = s.server.loads
        assert loads <= 4
        for _ in range(20):
            s.clock.advance(60)
            await s.settle()
        assert s.server.loads == loads
        assert s.server.running == ["one:latest"]
        assert s.state("two") == "failed"
        assert s.model("two")["reason"] == "does not fit beside one:latest"
        assert s.residency.ready


async def test_the_loser_of_a_war_serves_requests_and_gives_way_when_it_is_quiet(scene: Opens) -> None:
    async with scene(ONE, TWO, machine=TIGHT) as s:
        await s.settle()
        await s.chat("two")
        assert s.server.running == ["two:latest"]
        await s.settle()
        assert s.server.running == ["two:latest"]
        s.clock.advance(61)
        await s.settle()
        assert s.server.running == ["one:latest"]
        assert s.state("two") == "failed"


# --- failures ---


async def test_a_failing_load_is_tried_again_later_not_at_once(scene: Opens) -> None:
    async with scene(ONE) as s:
        s.server.fail("load_error", text="no luck")
        await s.settle()
        assert s.state("one") == "failed"
        assert "no luck" in s.model("one")["reason"]
        assert s.residency.ready
        s.clock.advance(10)
        await s.settle()
        assert s.state("one") == "resident"


async def test_a_failed_model_that_is_made_anew_is_tried_again_soon(scene: Opens) -> None:
    async with scene(TWO) as s:
        s.server.fail("load_error", text="damaged", times=-1)
        for _ in range(8):
            await s.settle()
            s.clock.advance(300)
        await s.settle()
        s.server.faults.clear()
        s.clock.advance(31)
        await s.settle()
        assert s.state("two") == "failed"
        body = {"model": "two", "from": "two", "system": "You are mended.", "stream": False}
        assert (await s.ollama.call("/api/create", body)).status == 200
        s.clock.advance(31)
        await s.settle()
        assert s.state("two") == "resident"


async def test_a_load_that_kills_the_server_is_not_repeated_at_every_return(scene: Opens) -> None:
    async with scene(ONE) as s:
        loads = []
        for _ in range(5):
            s.server.faults.clear()
            s.server.fail("reset", path="/api/generate", times=-1)
            await s.settle()
            loads.append(len(s.server.requests_for("/api/generate")))
        # Each attempt is repeated once on a fresh connection, and the whole once at once.
        assert loads == [4] * 5
        assert s.state("one") == "failed"


# --- release and drift ---


async def test_an_unloaded_model_rests_until_the_next_request_for_it(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        await s.ollama.unload("one")
        s.residency.unloaded(await s.catalogue.facts("one"))
        await s.settle()
        assert s.state("one") == "released"
        assert s.server.running == []
        await s.chat("one")
        await s.settle()
        assert s.state("one") == "resident"


async def test_an_unload_is_honoured_though_a_call_of_our_own_comes_right_behind_it(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.residency.step()
        await s.residency.idle()
        facts = await s.catalogue.facts("one")
        await s.ollama.unload("one")
        # The keeper looks before it hears that the unload was done, and loads the model again.
        await s.residency.step()
        await s.residency.idle()
        assert s.server.running == ["one:latest"]
        s.residency.unloaded(facts)
        await s.settle()
        assert s.server.running == []
        assert s.state("one") == "released"


async def test_an_unload_is_honoured_though_the_keeper_is_just_loading(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.residency.step()
        await until(lambda: s.server.state.scheduler.loading is not None)
        s.residency.unloaded(await s.catalogue.facts("one"))
        await s.settle()
        assert s.server.running == []
        assert s.state("one") == "released"


async def test_drift_is_told_once_and_mended_after_five_minutes_of_quiet(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        body = {"model": "one", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        with capture_logs() as logs:
            for _ in range(3):
                await s.run("one", "/v1/chat/completions", body)
                s.residency.v1_called(await s.catalogue.facts("one"))
                await s.settle()
                s.clock.advance(60)
        assert sum("another context length" in event for event in events(logs)) == 1
        assert s.server.reloads == 1
        assert s.model("one")["loss"] == "drifted"
        s.clock.advance(241)
        await s.settle()
        assert s.state("one") == "resident"
        assert s.server.reloads == 2


# --- warming ---


async def test_warm_prompts_are_in_the_cache_after_a_load_and_again_after_quiet(scene: Opens) -> None:
    system = "You are brief. " * 100
    async with scene({"name": "two", "warm": [{"system": system}]}) as s:
        await s.settle()
        whole = s.server.evaluated_tokens
        chat = {"model": "two", "stream": False, "options": {"num_predict": 1}}
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "question"}]
        await s.run("two", "/api/chat", {**chat, "messages": messages})
        assert s.server.evaluated_tokens - whole < 20
        await s.run("two", "/api/chat", {**chat, "messages": messages[1:]})
        await s.settle()
        s.clock.advance(31)
        await s.settle()
        before = s.server.evaluated_tokens
        await s.run("two", "/api/chat", {**chat, "messages": messages})
        assert s.server.evaluated_tokens - before < 20


async def test_a_request_goes_before_a_warming(scene: Opens) -> None:
    async with scene({"name": "two", "warm": [{"system": "be brief"}]}) as s:
        s.server.gate.close()
        await until_warming(s)
        s.server.gate.open()
        await s.chat("two")
        assert len(s.server.disconnects) == 1
        await s.settle()
        s.clock.advance(31)
        before = len(s.server.requests_for("/api/chat"))
        await s.settle()
        assert len(s.server.requests_for("/api/chat")) == before + 1


async def until_warming(s: Any) -> None:
    async with asyncio.timeout(5):
        while not s.server.gate.waiting:
            await s.residency.step()
            await asyncio.sleep(0.005)


# --- metrics ---


async def test_loads_of_the_keeper_are_counted(scene: Opens) -> None:
    async with scene(ONE, TWO) as s:
        s.server.fail("load_error", text="no luck", model="two:latest")
        await s.settle()
        assert s.metric("pilotlight_preloads_total", model="one:latest", result="ok") == 1
        assert s.metric("pilotlight_preloads_total", model="two:latest", result="failed") == 1
        assert s.metric("pilotlight_model_loaded", model="one:latest") == 1

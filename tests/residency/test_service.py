from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ConfigError, LoadFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.settings import KeptModel, Settings
from tests.residency.conftest import MB, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]

ONE = {"name": "one", "options": {"num_ctx": 2048}}


async def test_a_request_for_a_cold_model_waits_for_a_load_of_its_own_and_knows_how_long(scene: Opens) -> None:
    async with scene() as s:
        prepared = await s.prepare("one")
        assert prepared.waited_s > 0
        assert s.server.running == ["one:latest"]
        assert (await s.prepare("one")).waited_s == 0


async def test_preparing_a_request_for_a_resident_model_does_not_suspend(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        facts = await s.catalogue.facts("one")
        with pytest.raises(StopIteration) as done:
            s.residency.prepare(facts, None).send(None)
        assert done.value.value.set_options == {"num_ctx": 2048}
        assert done.value.value.keep_alive == -1


async def test_states_are_told_of_kept_models_only(scene: Opens) -> None:
    async with scene(ONE) as s:
        assert s.residency.states() == {"one:latest": "absent"}
        await s.settle()
        await s.prepare("two")
        assert s.residency.states() == {"one:latest": "resident"}


async def test_a_load_survives_the_client_that_asked_for_it(scene: Opens) -> None:
    async with scene() as s:
        await s.catalogue.facts("one")
        client = asyncio.create_task(s.prepare("one"))
        await until(lambda: s.server.state.scheduler.loading is not None)
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        await s.residency.idle()
        assert s.server.loads == 1
        assert (await s.prepare("one")).waited_s == 0


async def test_many_requests_share_one_load(scene: Opens) -> None:
    async with scene() as s:
        await asyncio.gather(*(s.chat(name) for name in ["one", "one-again"] * 5))
        assert s.server.loads == 1


async def test_a_load_that_follows_an_eviction_survives_its_client_too(scene: Opens) -> None:
    async with scene(ONE, machine={"max_loaded": 1}, load_scale=2.0) as s:
        await s.settle()
        await s.catalogue.facts("two")
        other = asyncio.create_task(s.prepare("two"))
        await until(lambda: s.server.state.scheduler.loading is not None)
        client = asyncio.create_task(s.prepare("one"))
        await until(lambda: s.server.state.scheduler.waiting == 1)
        client.cancel()
        await asyncio.gather(other, client, return_exceptions=True)
        await s.residency.idle()
        assert s.server.running == ["one:latest"]


async def test_one_waiter_that_leaves_leaves_the_others_waiting(scene: Opens) -> None:
    async with scene() as s:
        await s.catalogue.facts("one")
        clients = [asyncio.create_task(s.prepare("one")) for _ in range(3)]
        await until(lambda: s.server.state.scheduler.loading is not None)
        clients[0].cancel()
        results = await asyncio.gather(*clients, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(result.waited_s > 0 for result in results[1:])
        assert s.server.loads == 1


async def test_a_waiter_has_a_deadline_of_its_own_and_the_load_goes_on(scene: Opens) -> None:
    async with scene(residency={"load_timeout_s": 0.1}, load_scale=1.0) as s:
        with pytest.raises(UpstreamTimeout):
            await s.prepare("one")
        await s.settle()
        assert s.server.loads == 1


async def test_five_sets_of_options_cause_one_reload_at_most(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        sets = [{}, {"num_ctx": 4096}, {"num_batch": 64}, {"num_thread": 2}, {"num_ctx": 1024, "use_mmap": True}]
        for turn in range(20):
            await s.chat("one" if turn % 2 else "one-again", sets[turn % 5])
        assert s.server.reloads == 1
        assert s.model("one")["num_ctx"] == 4096
        assert s.metric("pilotlight_model_reloads_total", model="one:latest", cause="options") == 1


async def test_mixed_options_at_the_same_time_cause_one_reload_at_most(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        sets = [{}, {"num_ctx": 4096}, {"num_batch": 64}, {"num_thread": 2}]
        await asyncio.gather(*(s.chat("one", sets[turn % 4]) for turn in range(20)))
        assert s.server.reloads <= 1


async def test_names_of_one_blob_run_on_one_set_though_their_modelfiles_differ(scene: Opens) -> None:
    async with scene() as s:
        for _ in range(3):
            await s.chat("one")
            await s.chat("one-again")
        assert s.server.loads == 1


async def test_a_first_request_decides_the_options_of_a_model_that_has_none(scene: Opens) -> None:
    async with scene() as s:
        await s.chat("two", {"num_batch": 64})
        await s.chat("two", {"num_batch": 128})
        await s.chat("two")
        assert s.server.loads == 1
        assert s.model("two")["options"] == {"num_batch": 64}


async def test_a_model_made_anew_from_the_same_weights_takes_the_options_of_its_new_modelfile(scene: Opens) -> None:
    async with scene({"name": "two"}) as s:
        await s.settle()
        body = {"model": "two", "from": "two", "parameters": {"num_ctx": 1024}, "stream": False}
        assert (await s.ollama.call("/api/create", body)).status == 200
        s.catalogue.forget("two")
        await s.settle()
        assert s.state("two") == "resident"
        await s.chat("two")
        await s.chat("two")
        await s.settle()
        assert s.model("two")["num_ctx"] == 1024
        assert s.server.loads == 2


async def test_an_override_is_told_and_counted(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        prepared = await s.prepare("one", {"num_batch": 64})
        assert prepared.told == "num_batch=512; asked=64"
        assert prepared.avoided == ("num_batch",)


async def test_options_that_ollama_refuses_load_nothing_and_are_left_alone(scene: Opens) -> None:
    async with scene() as s:
        prepared = await s.prepare("one", {"num_ctx": "big"})
        assert (prepared.set_options, prepared.remove_options) == ({}, frozenset())
        assert s.server.loads == 0


async def test_a_keep_alive_that_ollama_refuses_loads_nothing(scene: Opens) -> None:
    async with scene() as s:
        assert (await s.prepare("one", keep_alive="abc")).keep_alive is None
        assert s.server.loads == 0


async def test_a_clients_short_keep_alive_does_not_unload_a_kept_model(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        await s.chat("one", keep_alive="10ms")
        await asyncio.sleep(0.05)
        assert s.server.running == ["one:latest"]


async def test_a_load_never_carries_the_keep_alive_that_would_unload_it(scene: Opens) -> None:
    async with scene() as s:
        await s.chat("one", keep_alive=0)
        (load,) = s.server.requests_for("/api/generate")[:1]
        assert b"keep_alive" not in load.body
        assert s.server.loads == 1


async def test_a_growth_that_does_not_fit_in_vram_is_undone_and_refused(scene: Opens) -> None:
    machine = {"vram_bytes": 110 * MB}
    async with scene(ONE, machine=machine) as s:
        await s.settle()
        prepared = await s.prepare("one", {"num_ctx": 16384})
        assert prepared.told == "num_ctx=2048; asked=16384"
        assert prepared.set_options == {"num_ctx": 2048}
        loads = s.server.loads
        await s.prepare("one", {"num_ctx": 16384})
        assert s.server.loads == loads
        assert (await s.prepare("one", {"num_ctx": 8192})).told == ""
        assert s.model("one")["vram_bytes"] == s.model("one")["size_bytes"]


async def test_a_growth_whose_load_fails_is_undone_without_the_client_seeing_it(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.server.fail("load_error", text="no room")
        assert (await s.prepare("one", {"num_ctx": 4096})).set_options == {"num_ctx": 2048}
        assert s.state("one") == "resident"


async def test_too_much_for_num_gpu_is_tried_once_without_it(scene: Opens) -> None:
    model = {"name": "one", "options": {"num_gpu": 99}}
    async with scene(model, machine={"vram_bytes": 60 * MB}) as s:
        await s.settle()
        assert s.state("one") == "resident"
        assert s.model("one")["options"] == {}
        assert [record.outcome for record in s.server.load_records] == ["failed", "ok"]
        assert (await s.prepare("one", {"num_gpu": 99})).remove_options == {"num_gpu"}


async def test_a_load_that_fails_in_ollama_is_told_to_all_who_wait_without_a_second_load(scene: Opens) -> None:
    async with scene() as s:
        await s.catalogue.facts("one")
        s.server.fail("load_error", text="the disk is on fire")
        results = await asyncio.gather(*(s.prepare("one") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [LoadFailed] * 3
        assert "the disk is on fire" in results[0].message
        assert results[0].status == 500
        assert len(s.server.load_records) == 1


async def test_a_refused_load_lets_the_request_itself_be_sent(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("one")
        s.server.fail("status", status=404, text="model 'one' not found", path="/api/generate")
        prepared = await s.residency.prepare(facts, None)
        assert prepared.set_options == {}


async def test_a_request_meets_an_upstream_that_is_away(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("one")
        s.server.crash()
        with pytest.raises(UpstreamUnreachable):
            await s.residency.prepare(facts, None)


async def test_embedding_only_models_are_loaded_through_embed(scene: Opens) -> None:
    async with scene({"name": "embedder"}) as s:
        await s.settle()
        assert s.state("embedder") == "resident"
        assert not s.server.requests_for("/api/generate")


async def test_a_v1_call_for_a_model_on_the_servers_own_options_shares_its_load(scene: Opens) -> None:
    async with scene() as s:
        prepared = await s.prepare("two", v1=True)
        assert prepared.waited_s > 0
        assert (prepared.set_options, prepared.keep_alive) == ({}, None)


async def test_a_v1_call_that_will_reload_anyway_waits_for_nothing(scene: Opens) -> None:
    async with scene(ONE) as s:
        assert (await s.prepare("one", v1=True)).waited_s == 0
        assert s.server.loads == 0


async def test_a_v1_call_suits_a_model_only_on_the_servers_own_options(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("two")
        assert s.residency.suits_v1(facts)
        await s.chat("two", options={"num_thread": 3})
        assert not s.residency.suits_v1(facts)


async def test_a_v1_call_does_not_suit_a_model_with_configured_options(scene: Opens) -> None:
    # An unset num_gpu never reloads, but a model that was evicted would come back without the configured one.
    for more in ({"options": {"num_gpu": 99}}, {"long_prompts": "tell"}):
        async with scene({"name": "one", **more}) as s:
            assert not s.residency.suits_v1(await s.catalogue.facts("one"))
    async with scene({"name": "one"}) as s:
        assert s.residency.suits_v1(await s.catalogue.facts("one"))


async def test_after_a_v1_call_the_next_native_request_puts_the_model_right_first(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        body = {"model": "one", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        await s.run("one", "/v1/chat/completions", body)
        s.residency.v1_called(await s.catalogue.facts("one"))
        assert s.server.reloads == 1
        answer = await s.chat("one")
        assert answer.body["load_duration"] / 1e9 < 0.1
        assert s.server.reloads == 2
        assert (await s.prepare("one")).waited_s == 0


async def test_long_prompts_grow_the_context_up_to_the_limit(scene: Opens) -> None:
    model = {"name": "one", "options": {"num_ctx": 2048}, "max_num_ctx": 8192, "long_prompts": "grow"}
    async with scene(model) as s:
        await s.settle()
        facts = await s.catalogue.facts("one")
        assert await s.residency.grow_for_prompt(facts, 10_000)
        assert s.model("one")["num_ctx"] == 4096
        assert await s.residency.grow_for_prompt(facts, 10_000_000)
        assert s.model("one")["num_ctx"] == 8192
        assert not await s.residency.grow_for_prompt(facts, 10_000_000)


async def test_respected_options_reload_and_are_counted(scene: Opens) -> None:
    async with scene(ONE, rewrite={"client_options": "respect"}) as s:
        await s.settle()
        await s.chat("one", {"num_ctx": 1024})
        await s.chat("one", {"num_ctx": 512})
        assert s.server.reloads == 2


async def test_a_server_that_keeps_nothing_gets_no_loads_ahead_of_requests(scene: Opens) -> None:
    async with scene(machine={"keep_alive_ns": 0}) as s:
        await s.chat("one")
        loads = s.server.loads
        await s.chat("one")
        assert s.server.loads == loads + 1


async def test_remote_models_are_none_of_our_business(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("one")
        assert facts is not None
        object.__setattr__(facts, "remote", True)
        assert (await s.residency.prepare(facts, None)).keep_alive is None
        assert s.server.loads == 0


async def test_closing_leaves_no_task_behind(scene: Opens) -> None:
    async with scene(ONE, {"name": "two"}, load_scale=0.1) as s:
        running = asyncio.create_task(s.residency.run())
        await until(lambda: s.server.state.scheduler.loading is not None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        names = {task.get_name().split(" ")[0] for task in asyncio.all_tasks()}
        assert not names & {"load", "warm", "probe", "show", "pull"}
        await s.residency.aclose()
        await until(lambda: s.server.state.scheduler.loading is None)


# --- other kept models while it runs


def kept(*given: dict[str, Any]) -> tuple[KeptModel, ...]:
    return Settings.model_validate({"models": given}).models


async def test_a_model_that_is_kept_from_now_on_is_loaded_unasked(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.residency.keep(kept(ONE, {"name": "two", "options": {"num_ctx": 1024}}))
        await s.settle()
        assert s.server.running == ["one:latest", "two:latest"]
        assert s.server.loads == 2
        assert s.model("two")["options"] == {"num_ctx": 1024}
        assert s.metric("pilotlight_preloads_total", model="two:latest", result="ok") == 1


async def test_a_model_that_is_kept_no_longer_is_not_brought_back(scene: Opens) -> None:
    async with scene(ONE, {"name": "two"}) as s:
        await s.settle()
        s.residency.keep(kept({"name": "two"}))
        await s.settle()
        assert s.server.loads == 2
        await s.ollama.unload("one")
        await s.settle()
        assert s.server.running == ["two:latest"]


async def test_a_request_for_a_model_that_is_kept_no_longer_needs_no_load(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.residency.keep(())
        prepared = await s.prepare("one")
        assert (prepared.waited_s, prepared.kept, prepared.keep_alive) == (0.0, False, None)
        assert prepared.set_options == {"num_ctx": 2048}


async def test_changed_options_cost_one_load_and_no_request_waits_for_it(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.residency.keep(kept({**ONE, "options": {"num_ctx": 4096}}))
        await s.settle()
        assert (s.server.loads, s.model("one")["num_ctx"]) == (2, 4096)
        assert (await s.prepare("one")).waited_s == 0


async def test_a_stream_that_runs_while_options_change_ends_before_the_load(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        running = asyncio.create_task(s.chat("one"))
        await until(lambda: "'in_flight': 1" in str(s.residency.models()))
        s.residency.keep(kept({**ONE, "options": {"num_ctx": 4096}}))
        assert (await running).status == 200
        await s.settle()
        assert (s.server.loads, s.model("one")["num_ctx"]) == (2, 4096)


async def test_a_model_in_use_that_is_kept_now_is_pinned_without_being_loaded_again(scene: Opens) -> None:
    async with scene() as s:
        await s.chat("one")
        s.residency.keep(kept({"name": "one"}))
        await s.settle()
        assert s.server.loads == 1
        assert s.model("one")["pinned"] is True


async def test_another_keep_alive_holds_from_the_next_request_on(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        s.residency.keep(kept({**ONE, "keep_alive": "10m"}))
        assert (await s.prepare("one")).keep_alive == "10m"
        assert s.server.loads == 1


async def test_models_that_contradict_each_other_change_nothing(scene: Opens) -> None:
    async with scene(ONE) as s:
        await s.settle()
        await s.chat("one-again")
        with pytest.raises(ConfigError, match=r"models\.1\.options"):
            s.residency.keep(kept(ONE, {"name": "one-again", "options": {"num_ctx": 512}}, {"name": "two"}))
        await s.settle()
        assert s.server.running == ["one:latest"]


async def test_a_contradiction_that_shows_later_does_not_end_the_program(scene: Opens) -> None:
    async with scene() as s:
        s.residency.keep(kept(ONE, {"name": "one-again", "options": {"num_ctx": 512}}))
        await s.settle()
        assert s.model("one")["options"]["num_ctx"] == 2048


async def test_what_failed_about_a_model_is_forgotten_when_it_is_kept_no_longer(scene: Opens) -> None:
    async with scene({"name": "nowhere"}) as s:
        await s.settle()
        assert s.metric("pilotlight_model_failed", model="nowhere:latest", reason="missing") == 1
        s.residency.keep(())
        assert s.metric("pilotlight_model_failed", model="nowhere:latest", reason="missing") == 0
        assert s.residency.models() == []

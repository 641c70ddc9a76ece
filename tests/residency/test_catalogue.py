from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from proxy.upstream.ollama import TagEntry
from tests.residency.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


async def test_a_model_is_asked_about_once_however_it_is_spelt(scene: Opens) -> None:
    async with scene() as s:
        for spelling in ("one", "one:latest", "ONE", "registry.ollama.ai/library/one"):
            assert (await s.catalogue.facts(spelling)).name == "one:latest"
        assert len(s.server.requests_for("/api/show")) == 1
        assert s.metric("cache_misses_total", cache="show") == 1
        assert s.metric("cache_hits_total", cache="show") == 3


async def test_many_who_ask_at_the_same_time_share_one_answer(scene: Opens) -> None:
    async with scene() as s:
        found = await asyncio.gather(*(s.catalogue.facts("one") for _ in range(10)))
        assert len({id(facts) for facts in found}) == 1
        assert len(s.server.requests_for("/api/show")) == 1


async def test_a_client_that_leaves_does_not_take_the_answer_from_the_others(scene: Opens) -> None:
    async with scene() as s:
        first = asyncio.create_task(s.catalogue.facts("one"))
        second = asyncio.create_task(s.catalogue.facts("one"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).name == "one:latest"


async def test_a_model_that_does_not_exist_or_cannot_be_asked_about_is_unknown(scene: Opens) -> None:
    async with scene() as s:
        assert await s.catalogue.facts("ghost") is None
        s.server.fail("close", path="/api/show", times=2)
        assert await s.catalogue.facts("one") is None
        assert (await s.catalogue.facts("one")).name == "one:latest"


async def test_what_may_have_changed_is_asked_about_again(scene: Opens) -> None:
    async with scene() as s:
        await s.catalogue.facts("one")
        await s.catalogue.facts("two")
        s.catalogue.forget("one")
        assert s.catalogue.cached("one") is None
        assert s.catalogue.cached("two") is not None
        s.catalogue.forget()
        assert s.catalogue.cached("two") is None


async def test_an_answer_that_was_overtaken_by_a_change_is_not_remembered(scene: Opens) -> None:
    async with scene() as s:
        asking = asyncio.create_task(s.catalogue.facts("one"))
        await until(lambda: bool(s.server.requests_for("/api/show")))
        s.catalogue.forget("one")
        assert (await asking).name == "one:latest"
        assert s.catalogue.cached("one") is None


async def test_another_digest_in_the_list_of_models_makes_it_forget(scene: Opens) -> None:
    async with scene() as s:
        one = await s.catalogue.facts("one")
        two = await s.catalogue.facts("two")
        tags = [TagEntry("one:latest", "another", 1), TagEntry("two:latest", two.digest, 1)]
        assert one.digest
        assert s.catalogue.on_tags(tags) == ["one:latest"]
        assert s.catalogue.cached("one") is None
        assert s.catalogue.cached("two") is two


async def test_a_model_is_probed_once_per_digest_and_server_version(scene: Opens) -> None:
    async with scene() as s:
        await s.chat("one")
        await s.residency.idle()
        assert s.catalogue.cached("one").same_render is True
        probes = len(s.server.requests_for("/api/generate"))
        s.catalogue.forget("one")
        await s.chat("one")
        await s.residency.idle()
        assert s.catalogue.cached("one").same_render is True
        assert len(s.server.requests_for("/api/generate")) == probes
        s.catalogue.on_version("9.9.9")
        assert s.catalogue.cached("one").same_render is None

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


async def test_probing_loads_nothing_anew_whichever_name_is_called(scene: Opens) -> None:
    async with scene({"name": "one", "options": {"num_ctx": 2048}}) as s:
        await s.settle()
        await s.chat("one-again")
        await s.residency.idle()
        assert s.catalogue.cached("one-again").same_render is True
        assert s.server.loads == 1


async def test_a_server_that_cannot_be_probed_means_generate_for_good_and_says_so_once(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("one")
        with capture_logs() as logs:
            s.server.fail("status", status=400, text="no such field", path="/api/chat")
            await s.residency.prepare(facts, None)
            await s.residency.idle()
            await s.residency.prepare(s.catalogue.cached("one"), None)
            await s.residency.idle()
        assert s.catalogue.cached("one").same_render is False
        assert sum("stays generate" in line["event"] for line in logs) == 1


async def test_a_probe_that_met_a_failure_is_tried_again_with_the_next_request(scene: Opens) -> None:
    async with scene() as s:
        facts = await s.catalogue.facts("one")
        s.server.fail("close", path="/api/chat", times=2)
        await s.residency.prepare(facts, None)
        await s.residency.idle()
        assert s.catalogue.cached("one").same_render is None
        await s.residency.prepare(facts, None)
        await s.residency.idle()
        assert s.catalogue.cached("one").same_render is True


async def test_nothing_is_probed_where_nothing_is_rewritten(scene: Opens) -> None:
    async with scene(rewrite={"generate_to_chat": False}) as s:
        await s.prepare("one")
        await s.residency.idle()
        assert not s.server.requests_for("/api/chat")

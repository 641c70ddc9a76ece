from __future__ import annotations

from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from tests.residency.conftest import MB

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


async def test_a_war_is_told_in_log_and_metric_with_both_names(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "one"}, {"name": "two"}, machine={"vram_bytes": 120 * MB}) as s:
            await s.settle()
            assert s.metric("pilotlight_model_failed", model="two:latest", reason="does_not_fit") == 1
    (told,) = [line for line in logs if line["event"] == "kept models do not fit beside each other"]
    assert (told["kept"], told["given_up"]) == ("one:latest", "two:latest")


async def test_a_num_gpu_that_does_not_fit_is_told_with_what_fits(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "one", "options": {"num_gpu": 99}}, machine={"vram_bytes": 60 * MB}) as s:
            await s.settle()
    (told,) = [line for line in logs if "num_gpu" in line["event"]]
    assert told["fits"] == "57 MiB of 99 MiB (57 %) in VRAM"


async def test_a_failed_load_is_told_with_ollamas_own_text(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "one"}) as s:
            s.server.fail("load_error", text="the disk is on fire")
            await s.settle()
    (told,) = [line for line in logs if line["event"] == "load failed"]
    assert "the disk is on fire" in told["reason"]


async def test_a_missing_model_is_told_once_and_counted_once(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "ghost"}) as s:
            for _ in range(3):
                await s.settle()
            assert s.metric("pilotlight_model_failed", model="ghost:latest", reason="missing") == 1
    assert [line["event"] for line in logs].count("model missing") == 1


async def test_a_refused_growth_is_told(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "one", "options": {"num_ctx": 2048}}, machine={"vram_bytes": 110 * MB}) as s:
            await s.settle()
            await s.prepare("one", {"num_ctx": 16384})
    (told,) = [line for line in logs if "larger num_ctx" in line["event"]]
    assert (told["num_ctx"], told["refused"]) == (2048, 16384)

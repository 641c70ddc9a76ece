"""Residency, counted at the server: loads, reloads and what is resident."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tests.e2e.pair import Pair, paired
from tests.peers import client, until

if TYPE_CHECKING:
    from tests.peers import Answer

# Of the two models only one has a place.
ONE_AT_A_TIME = {"max_loaded": 1}

SETS = [
    {"num_ctx": 2048},
    {"num_ctx": 8192},
    {"num_batch": 128},
    {"num_thread": 2},
    {"num_gpu": 0, "use_mmap": False},
]


def chat(model: str = "tiny", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False, **more}


async def post(address: str, body: dict[str, Any], path: str = "/api/chat") -> Answer:
    async with client(address) as peer:
        peer.post(path, body)
        return await peer.answer()


async def ask_mixed(address: str, models: tuple[str, ...]) -> None:
    for turn in range(20):
        options = {**SETS[turn % len(SETS)], "num_predict": 1}
        answer = await post(address, chat(models[turn % len(models)], options=options))
        assert answer.status == 200, answer.body


async def reloads_after_first(address: str, pair: Pair, models: tuple[str, ...]) -> int:
    await ask_mixed(address, models)
    return pair.simulated.loads - 1


async def test_mixed_options_cause_one_reload_at_most_and_directly_more_than_ten() -> None:
    async with paired() as pair:
        assert await reloads_after_first(pair.direct, pair, ("tiny",)) > 10
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        assert await reloads_after_first(pair.proxied, pair, ("tiny",)) <= 1


async def test_two_names_of_one_blob_share_one_set_of_options() -> None:
    names = ("tiny", "legacy")
    async with paired() as pair:
        assert await reloads_after_first(pair.direct, pair, names) > 10
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        assert await reloads_after_first(pair.proxied, pair, names) <= 1


async def test_models_that_are_not_kept_are_guarded_too() -> None:
    async with paired() as pair:
        assert await reloads_after_first(pair.proxied, pair, ("tiny", "tools")) <= 1


async def test_an_override_is_told() -> None:
    async with paired(models=[{"name": "tiny", "options": {"num_ctx": 4096}}]) as pair:
        await pair.until_ready()
        answer = await post(pair.proxied, chat(options={"num_batch": 64, "num_ctx": 1024}))
        told = answer.header("x-pilotlight-options")
        assert told is not None
        assert "num_batch" in told


async def test_a_short_keep_alive_of_a_client_does_not_unload_a_kept_model() -> None:
    async with paired() as pair:
        await post(pair.direct, chat(keep_alive=0))
        await until(lambda: pair.running == [])
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        for keep_alive in (0, "1ms", "1s", 0.001):
            assert (await post(pair.proxied, chat(keep_alive=keep_alive))).status == 200
        answer = (await post_get(pair.direct, "/api/ps")).json["models"][0]
        assert answer["expires_at"] > "2200"
        assert pair.simulated.loads == 1


async def post_get(address: str, path: str) -> Answer:
    async with client(address) as peer:
        peer.get(path)
        return await peer.answer()


async def test_kept_models_are_back_after_a_restart_without_anyone_asking() -> None:
    check_every_s = 0.2
    async with paired(
        models=[{"name": "mid"}, {"name": "tiny"}], residency={"check_every_s": check_every_s}, simulator={"speed": 1.0}
    ) as pair:
        await pair.until_ready()
        for _ in range(2):
            await pair.simulated.restart()
            began = time.monotonic()
            await until(lambda: pair.running == ["mid", "tiny"])
            # Load times of the two models, the check and a second, ten times over for a noisy machine.
            assert time.monotonic() - began < 10 * (0.29 + 0.27 + check_every_s + 1)
            await until(lambda: pair.proxy.is_ready)


async def test_a_killed_upstream_is_told_by_readiness_and_its_models_come_back() -> None:
    async with paired(models=[{"name": "tiny"}], residency={"check_every_s": 0.1}) as pair:
        await pair.until_ready()
        pair.simulated.crash()
        await until(lambda: not pair.proxy.is_ready)
        refused = await post(pair.proxied, chat())
        assert refused.status == 502
        assert "error" in refused.json
        await pair.simulated.restart()
        await until(lambda: pair.running == ["tiny"])
        await until(lambda: pair.proxy.is_ready)


async def test_two_kept_models_that_do_not_fit_stop_loading_and_the_more_important_stays() -> None:
    async with paired(
        models=[{"name": "mid"}, {"name": "tiny"}], residency={"check_every_s": 0.05}, simulator=ONE_AT_A_TIME
    ) as pair:
        await until(lambda: any("does not fit" in row["reason"] for row in pair.proxy.residency.models()))
        await until(lambda: pair.running == ["mid"])
        states = {row["name"]: (row["state"], row["reason"]) for row in pair.proxy.residency.models()}
        assert states["tiny:latest"] == ("failed", "does not fit beside mid:latest")
        assert states["mid:latest"][0] == "resident"
        loads = pair.simulated.loads
        # Many looks later nothing was loaded any more.
        looks = len(pair.simulated.requests_for("/api/ps"))
        await until(lambda: len(pair.simulated.requests_for("/api/ps")) > looks + 20)
        assert pair.simulated.loads == loads
        assert pair.proxy.is_ready


async def test_a_chat_with_another_model_is_not_disturbed_by_the_keeper() -> None:
    async with paired(
        models=[{"name": "mid"}], residency={"check_every_s": 0.02, "return_after_s": 3600}, simulator=ONE_AT_A_TIME
    ) as pair:
        await pair.until_ready()
        for _ in range(5):
            assert (await post(pair.proxied, chat("tiny"))).status == 200
            looks = len(pair.simulated.requests_for("/api/ps"))
            await until(lambda looks=looks: len(pair.simulated.requests_for("/api/ps")) > looks + 5)  # type: ignore[misc]
        assert pair.running == ["tiny"]
        assert pair.simulated.loads == 2
        # Asked for, it comes back at once.
        assert (await post(pair.proxied, chat("mid"))).status == 200
        assert pair.running == ["mid"]


async def test_a_load_survives_the_client_that_asked_for_it_and_is_shared() -> None:
    async with paired(simulator={"speed": 1.0}) as pair:
        leaver = await asyncio.open_connection("127.0.0.1", int(pair.proxied.rpartition(":")[2]))
        body = b'{"model":"mid","prompt":"hi","options":{"num_predict":1}}'
        leaver[1].write(
            b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await until(lambda: bool(pair.simulated.requests_for("/api/generate")))
        leaver[1].close()
        others = [asyncio.create_task(post(pair.proxied, chat("mid", options={"num_predict": 1}))) for _ in range(3)]
        answers = await asyncio.gather(*others)
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert [(record.model.partition(":")[0], record.outcome) for record in pair.simulated.load_records] == [
            ("mid", "ok")
        ]


async def test_an_unload_by_the_operator_is_honoured_until_the_next_request() -> None:
    async with paired(models=[{"name": "tiny"}], residency={"check_every_s": 0.02}) as pair:
        await pair.until_ready()
        stopped = await post(pair.proxied, {"model": "tiny", "keep_alive": 0, "stream": False}, "/api/generate")
        assert stopped.json["done_reason"] == "unload"
        looks = len(pair.simulated.requests_for("/api/ps"))
        await until(lambda: len(pair.simulated.requests_for("/api/ps")) > looks + 10)
        assert pair.running == []
        assert (await post(pair.proxied, chat())).status == 200
        assert pair.running == ["tiny"]


async def test_ten_thousand_hostile_model_names_leave_the_metrics_small() -> None:
    async with paired() as pair:
        async with client(pair.proxied) as peer:
            for number in range(10_000):
                peer.post("/api/chat", chat(f'evil{number}"\n}}{{le="{number}'))
                assert (await peer.answer()).status in (400, 404)
        async with client(pair.proxy.admin_address) as peer:
            peer.get("/metrics")
            page = (await peer.answer()).body
        assert b"evil" not in page
        assert len(page) < 256 * 1024
        assert b"pilotlight_label_overflow_total" in page

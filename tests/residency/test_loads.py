from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ShuttingDown
from proxy.residency.loads import Outcome, is_out_of_memory
from proxy.upstream.ollama import LoadReply
from tests.residency.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


@pytest.mark.parametrize(
    "text",
    [
        "model requires more system memory (9.1 GiB) than is available (3.2 GiB)",
        "memory layout cannot be allocated with num_gpu = 99",
        "unable to load full model on GPU",
        "llama runner process has terminated: cudaMalloc failed: out of memory",
        "model failed to load, this may be due to resource limitations or an internal error, check ollama server logs",
    ],
)
def test_ollamas_texts_for_want_of_memory_are_known(text: str) -> None:
    assert is_out_of_memory(LoadReply(500, text, 1.0))


@pytest.mark.parametrize(
    ("status", "text"), [(404, "model 'memory' not found"), (500, "unsupported architecture"), (200, "")]
)
def test_other_failures_are_no_want_of_memory(status: int, text: str) -> None:
    assert not is_out_of_memory(LoadReply(status, text, 1.0))


def test_an_outcome_is_good_only_when_ollama_said_so() -> None:
    assert Outcome(status=200).ok
    assert not Outcome(status=500, error="no").ok
    assert not Outcome(status=200, failure=ShuttingDown("bye")).ok


async def test_the_load_request_has_the_form_that_loads(scene: Opens) -> None:
    async with scene({"name": "one", "options": {"num_ctx": 2048}}) as s:
        await s.settle()
        load = s.server.requests_for("/api/generate")[0]
        assert load.body == b'{"model": "one:latest", "options": {"num_ctx": 2048}, "keep_alive": -1, "stream": false}'


async def test_closing_while_a_request_waits_tells_it_that_we_shut_down(scene: Opens) -> None:
    async with scene(load_scale=0.1) as s:
        await s.catalogue.facts("one")
        client = asyncio.create_task(s.prepare("one"))
        await until(lambda: s.server.state.scheduler.loading is not None)
        await s.residency.aclose()
        with pytest.raises(ShuttingDown):
            await client
        await until(lambda: s.server.state.scheduler.loading is None)


async def test_one_load_at_a_time_for_each_runner(scene: Opens) -> None:
    async with scene({"name": "one", "options": {"num_ctx": 2048}}) as s:
        await asyncio.gather(s.residency.step(), s.chat("one", {"num_ctx": 4096}), s.chat("one", {"num_ctx": 1024}))
        await s.settle()
        in_turn = sorted((record.started_s, record.started_s + record.seconds) for record in s.server.load_records)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(in_turn))
        assert s.server.loads <= 2
        assert s.model("one")["num_ctx"] == 4096

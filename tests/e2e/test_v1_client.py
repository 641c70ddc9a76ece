"""The official ``openai`` client: what a kept model is spared, and what a failure looks like to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e.pair import Pair, paired
from tests.peers import client, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEPT = {"models": [{"name": "tiny", "options": {"num_ctx": 2048}}]}
MESSAGES: list[Any] = [{"role": "user", "content": "tell me"}]
CALLS = 20
OPTIONS = {"num_ctx": 2048, "num_predict": 1}


def client_of(address: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=20)


async def chat(asked: openai.AsyncOpenAI) -> str:
    answer = await asked.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
    return answer.choices[0].message.content or ""


async def streamed_chat(asked: openai.AsyncOpenAI) -> str:
    stream = await asked.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def completion(asked: openai.AsyncOpenAI) -> str:
    answer = await asked.completions.create(model="tiny", prompt="tell me", max_tokens=2)
    return answer.choices[0].text


async def loads_of_calls(pair: Pair, address: str, call: Callable[[openai.AsyncOpenAI], Awaitable[str]]) -> list[int]:
    """How many loads each of the calls caused, each after a native one of an application with options of its own."""
    counts = []
    async with client_of(address) as asked, client(address) as native:
        for _ in range(CALLS):
            native.post("/api/chat", {"model": "tiny", "messages": MESSAGES, "stream": False, "options": OPTIONS})
            assert (await native.answer()).status == 200
            before = pair.simulated.loads
            assert await call(asked) != ""
            counts.append(pair.simulated.loads - before)
    return counts


@pytest.mark.parametrize("call", [chat, streamed_chat, completion])
async def test_twenty_calls_reload_a_kept_model_twenty_times_directly_and_never_through_the_proxy(
    call: Callable[[openai.AsyncOpenAI], Awaitable[str]],
) -> None:
    async with paired() as pair:
        assert await loads_of_calls(pair, pair.direct, call) == [1] * CALLS
    async with paired(**KEPT) as pair:
        await pair.until_ready()
        loads = pair.simulated.loads
        assert await loads_of_calls(pair, pair.proxied, call) == [0] * CALLS
        assert pair.simulated.loads == loads
        assert pair.simulated.reloads == 0


async def test_a_kept_model_stays_for_ever_whatever_openai_clients_ask() -> None:
    async with paired(**KEPT) as pair, client_of(pair.proxied) as asked, client(pair.direct) as native:
        await pair.until_ready()
        await asked.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=1, extra_body={"keep_alive": 0, "options": {"num_ctx": 8192}}
        )
        native.get("/api/ps")
        (row,) = (await native.answer()).json["models"]
        assert row["expires_at"] > "2200"
        assert row["context_length"] == 2048


async def test_a_failure_in_mid_stream_is_raised_by_the_client_and_directly_looks_like_an_end() -> None:
    async with paired() as pair, client_of(pair.direct) as direct:
        pair.simulated.fail("error_line", after=1)
        assert await streamed_chat(direct) != ""
    # A token to warm up with would meet the fault.
    async with paired(**KEPT, residency={"warmup": False}) as pair, client_of(pair.proxied) as proxied:
        await pair.until_ready()
        for kind, text in (("error_line", "unexpected EOF"), ("cut", "upstream connection lost")):
            pair.simulated.fail(kind, after=1, path="/api/chat")
            with pytest.raises(openai.APIError, match=text):
                await streamed_chat(proxied)
        await until(lambda: not pair.proxy.relay.active)
        assert await streamed_chat(proxied) != ""


async def test_an_error_has_the_class_that_it_has_directly() -> None:
    async with paired(v1="translate") as pair, client_of(pair.direct) as direct, client_of(pair.proxied) as proxied:
        told = []
        for asked in (direct, proxied):
            with pytest.raises(openai.NotFoundError) as missing:
                await asked.chat.completions.create(model="ghost", messages=MESSAGES)
            with pytest.raises(openai.BadRequestError) as refused:
                await asked.chat.completions.create(model="tiny", messages=MESSAGES, reasoning_effort="high")
            told.append([(error.value.status_code, error.value.body) for error in (missing, refused)])
        assert told[0] == told[1]
        # The second one reached the native route: the client sees no difference.
        assert "/api/chat" in {seen.path for seen in pair.simulated.requests}

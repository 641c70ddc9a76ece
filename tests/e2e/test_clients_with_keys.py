"""Three real clients with a key of ours: what they send is understood, and they understand what they are told.

All call as strangers: a reverse proxy on this machine that speaks for them looks like that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import anthropic
import ollama
import openai
import pytest

from proxy.edge.keys import hash_key, new_key
from tests.e2e.pair import Pair, paired
from tests.peers import client as raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEYS = {
    name: new_key(bytes([number]) * 32) for number, name in enumerate(("user", "reader", "admin", "limited", "nobody"))
}
LISTED = [
    {"name": "user", "hash": hash_key(KEYS["user"])},
    {"name": "reader", "hash": hash_key(KEYS["reader"]), "scopes": ["read"], "models": ["*"]},
    {"name": "admin", "hash": hash_key(KEYS["admin"]), "scopes": ["read", "manage"]},
    {"name": "limited", "hash": hash_key(KEYS["limited"]), "models": ["tiny"], "rate_per_s": 1, "burst": 1},
]
STRANGER = {"X-Forwarded-For": "203.0.113.9"}
MESSAGES: list[Any] = [{"role": "user", "content": "tell me"}]
OPTIONS = {"temperature": 0, "seed": 1, "num_predict": 6}


class Clients:
    """One of each, with the same key; ``None``: without one.

    Those of OpenAI and Anthropic cannot be made without, and send an empty field or none.
    """

    def __init__(self, address: str, key: str | None, *, bearer: bool = False) -> None:
        shown = {} if key is None else {"Authorization": f"Bearer {key}"} if bearer else {"X-API-Key": key}
        self.ollama = ollama.Client(f"http://{address}", headers={**STRANGER, **shown})
        self.openai = openai.OpenAI(
            base_url=f"http://{address}/v1",
            api_key=key or "none",
            default_headers=STRANGER if key else {**STRANGER, "Authorization": ""},
            timeout=30,
        )
        credential: dict[str, Any] = {"auth_token" if bearer else "api_key": key or "none"}
        self.anthropic = anthropic.Anthropic(
            base_url=f"http://{address}",
            default_headers=STRANGER if key else {**STRANGER, "X-Api-Key": anthropic.Omit()},
            timeout=30,
            **credential,
        )

    def close(self) -> None:
        for each in (self.ollama, self.openai, self.anthropic):
            each.close()


INFER: dict[str, Callable[[Clients], Any]] = {
    "ollama chat": lambda c: c.ollama.chat("tiny", MESSAGES, options=OPTIONS).message.content,
    "ollama stream": lambda c: [part.message.content for part in c.ollama.chat("tiny", MESSAGES, stream=True)],
    "openai chat": lambda c: (
        c.openai.chat.completions.create(model="tiny", messages=MESSAGES).choices[0].message.content
    ),
    "openai stream": lambda c: list(c.openai.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)),
    "openai responses": lambda c: c.openai.responses.create(model="tiny", input="tell me").output_text,
    "openai embeddings": lambda c: c.openai.embeddings.create(model="tiny", input="tell me").data[0].embedding,
    "anthropic message": lambda c: c.anthropic.messages.create(model="tiny", max_tokens=6, messages=MESSAGES).content,
    "anthropic stream": lambda c: list(
        c.anthropic.messages.create(model="tiny", max_tokens=6, messages=MESSAGES, stream=True)
    ),
}
READ: dict[str, Callable[[Clients], Any]] = {
    "ollama list": lambda c: c.ollama.list().models,
    "ollama show": lambda c: c.ollama.show("tiny").template,
    "openai list": lambda c: list(c.openai.models.list()),
    "openai retrieve": lambda c: c.openai.models.retrieve("tiny").id,
    "anthropic list": lambda c: c.anthropic.get("/v1/models", cast_to=object),
}
# What each library raises; Ollama's has one class for all statuses.
UNAUTHORIZED = {
    "ollama": ollama.ResponseError,
    "openai": openai.AuthenticationError,
    "anthropic": anthropic.AuthenticationError,
}
FORBIDDEN = {
    "ollama": ollama.ResponseError,
    "openai": openai.PermissionDeniedError,
    "anthropic": anthropic.PermissionDeniedError,
}


@contextlib.asynccontextmanager
async def guarded(**settings: Any) -> AsyncIterator[Pair]:
    async with paired(keys=LISTED, **settings) as pair:
        yield pair


async def tried(pair: Pair, key: str | None, call: Callable[[Clients], Any], *, bearer: bool = False) -> Any:
    clients = Clients(pair.proxied, key, bearer=bearer)
    try:
        return await asyncio.to_thread(call, clients)
    finally:
        clients.close()


async def refused(pair: Pair, key: str | None, name: str, classes: dict[str, type[Exception]], status: int) -> str:
    """The message of a refusal that came as the library's own class, from us."""
    with pytest.raises(classes[name.split()[0]]) as caught:
        await tried(pair, key, {**INFER, **READ}[name])
    error: Any = caught.value
    assert error.status_code == status, name
    return str(error)


async def answered(pair: Pair) -> list[int]:
    """The statuses of all requests so far, newest first."""
    async with raw_client(pair.proxy.admin_address, limit=2**20) as opened:
        opened.get("/requests", "Connection: close")
        page = (await opened.answer()).json
    return [row["status"] for row in page["requests"]]


@pytest.mark.parametrize("bearer", [False, True], ids=["x-api-key", "bearer"])
async def test_with_the_right_key_every_client_calls_streams_and_lists(bearer: bool) -> None:
    async with guarded() as pair:
        for name, call in (INFER | READ).items():
            assert await tried(pair, KEYS["user"], call, bearer=bearer), name
        assert {status for status in await answered(pair)} == {200}
        for seen in pair.simulated.requests:
            assert KEYS["user"] not in json.dumps([seen.headers, seen.body.decode()], default=str)


@pytest.mark.parametrize("name", [*INFER, *READ])
async def test_without_a_key_and_with_a_wrong_one_each_client_raises_its_own_error_and_tries_once(name: str) -> None:
    async with guarded() as pair:
        texts = [await refused(pair, key, name, UNAUTHORIZED, 401) for key in (None, KEYS["nobody"])]
        assert all("a valid API key is needed" in text for text in texts)
        assert await answered(pair) == [401, 401]


@pytest.mark.parametrize("name", [name for name in INFER if "stream" not in name])
async def test_a_key_that_only_reads_calls_no_model_and_each_client_says_so(name: str) -> None:
    async with guarded() as pair:
        assert "this API key may not call models" in await refused(pair, KEYS["reader"], name, FORBIDDEN, 403)
        assert await answered(pair) == [403]


async def test_a_model_beside_the_keys_own_is_refused_as_missing_permission() -> None:
    async with guarded() as pair:
        with pytest.raises(openai.PermissionDeniedError, match="may not use this model"):
            await tried(
                pair, KEYS["limited"], lambda c: c.openai.chat.completions.create(model="tools", messages=MESSAGES)
            )


async def test_managing_takes_a_key_that_manages() -> None:
    async with guarded() as pair:
        with pytest.raises(ollama.ResponseError, match="may not manage models") as caught:
            await tried(pair, KEYS["user"], lambda c: c.ollama.delete("legacy"))
        assert caught.value.status_code == 403
        await tried(pair, KEYS["admin"], lambda c: c.ollama.delete("legacy"))
        assert [seen.method for seen in pair.simulated.requests_for("/api/delete")] == ["DELETE"]


async def test_beyond_its_rate_a_client_waits_as_it_is_told_or_raises() -> None:
    # Slow by nature: the clients wait for the second that Retry-After tells.
    for name in ("openai chat", "anthropic message"):
        async with guarded() as pair:
            await tried(pair, KEYS["limited"], INFER[name])
            await tried(pair, KEYS["limited"], INFER[name])
            statuses = await answered(pair)
            assert statuses[0] == statuses[-1] == 200, name
            assert set(statuses[1:-1]) == {429}, name
    async with guarded() as pair:
        await tried(pair, KEYS["limited"], INFER["ollama chat"])
        with pytest.raises(ollama.ResponseError) as caught:
            await tried(pair, KEYS["limited"], INFER["ollama chat"])
        assert caught.value.status_code == 429
        assert await answered(pair) == [429, 200]

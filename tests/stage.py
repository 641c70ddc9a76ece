"""The whole proxy, started as production starts it, between a scripted upstream and raw clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.relay.call import DEADLINES, Deadlines
from proxy.server.app import Proxy
from proxy.settings import Settings
from tests.peers import Answering, RawClient, Script, ScriptedUpstream, Seen, client, until, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

MODEL = "tiny"
DIGEST = "c" * 64
BLOB = "b" * 64
VERSION = {"version": "0.24.0"}
TAGS = {"models": [{"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "digest": DIGEST, "size": 1000}]}
PS = {
    "models": [
        {
            "name": f"{MODEL}:latest",
            "model": f"{MODEL}:latest",
            "size": 1000,
            "digest": DIGEST,
            "expires_at": "2318-01-01T00:00:00Z",
            "size_vram": 1000,
            "context_length": 4096,
        }
    ]
}
SHOW = {
    "modelfile": f"FROM /models/blobs/sha256-{BLOB}\n",
    "template": "{{ .Prompt }}",
    "details": {"format": "gguf", "family": "llama", "families": ["llama"]},
    "model_info": {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "llama.vocab_size": 32000,
    },
    "capabilities": ["completion"],
}
MOMENT = "2026-11-21T04:44:25.437Z"
FINAL = {
    "done_reason": "stop",
    "total_duration": 5000000,
    "load_duration": 1000000,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 2000000,
    "eval_count": 2,
    "eval_duration": 1000000,
}


async def answer_own_call(seen: Seen, reply: Answering) -> None:
    """What an Ollama with one model, that is always resident, answers the proxy's own calls."""
    if seen.path == "/api/version":
        reply.json(VERSION)
    elif seen.path == "/api/tags":
        reply.json(TAGS)
    elif seen.path == "/api/ps":
        reply.json(PS)
    elif seen.path == "/api/show":
        if seen.json["model"].partition(":")[0] == MODEL:
            reply.json(SHOW)
        else:
            reply.json({"error": f"model '{seen.json['model']}' not found"}, 404)
    elif seen.json.get("_debug_render_only"):
        reply.json({"model": MODEL, "_debug_info": {"rendered_template": "the same"}})
    else:
        reply.json({"model": MODEL, "created_at": MOMENT, "response": "", "done": True, "done_reason": "load"})


def is_own_call(seen: Seen) -> bool:
    """Whether the proxy asks for itself."""
    return (seen.header("user-agent") or "").startswith("pilotlight/")


@dataclass
class Stage:
    """One proxy and its upstream.

    Attributes:
        script: Answers what is relayed. May be replaced at any time.
    """

    upstream: ScriptedUpstream
    proxy: Proxy
    script: Script

    @property
    def address(self) -> str:
        return self.proxy.listen_address

    @property
    def calls(self) -> list[Seen]:
        """What reached the upstream for clients."""
        return [seen for seen in self.upstream.seen if not is_own_call(seen)]

    def client(self, *, limit: int = 2**16) -> AbstractAsyncContextManager[RawClient]:
        return client(self.address, limit=limit)

    async def page(self, path: str) -> tuple[int, Any]:
        """A page of the admin port."""
        async with client(self.proxy.admin_address, limit=2**22) as opened:
            opened.get(path, "Connection: close")
            answer = await opened.answer()
        return answer.status, answer.json

    def metric(self, name: str, **labels: str) -> float:
        """A sample as the metrics page has it now; 0 where there is none."""
        self.proxy._observer.settle()
        found = self.proxy.metrics._registry.get_sample_value(name, labels)
        return 0.0 if found is None else found

    async def rows(self, count: int = 1) -> list[dict[str, Any]]:
        """The newest requests, newest first, once there are so many."""
        while True:
            _, page = await self.page("/requests")
            if len(page["requests"]) >= count:
                return page["requests"]
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def staged(
    script: Script,
    *,
    own: Callable[[Seen, Answering], Awaitable[None]] = answer_own_call,
    awaits_model: bool = True,
    deadlines: Deadlines = DEADLINES,
    fallback_keys: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """A proxy that keeps one model, ready.

    Args:
        script: Answers what is relayed.
        own: Answers the proxy's own calls.
        awaits_model: Begin when everything is known of the model; else when the upstream was seen.
        deadlines: For clients that send.
        fallback_keys: As the environment would have them.
        settings: Beside the addresses.
    """

    async def dispatch(seen: Seen, reply: Answering) -> None:
        await (own if is_own_call(seen) else stage.script)(seen, reply)

    async with upstream(dispatch) as server:
        proxy = Proxy(make_settings(server.url, **settings), deadlines=deadlines, fallback_keys=fallback_keys)
        stage = Stage(server, proxy, script)
        try:
            await proxy.start()
            # The probe ends after readiness, and nothing outside tells; without it no generate is sent as chat.
            await until(lambda: proxy.is_ready and (_is_probed(proxy) or not awaits_model))
            yield stage
        finally:
            await proxy.aclose()


def make_settings(url: str, **settings: Any) -> Settings:
    given = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": {"url": url},
        "models": [{"name": MODEL}],
        "residency": {"check_every_s": 3600},
        # Turns have tests of their own; here several calls are under way at once.
        "scheduler": {"parallel": 1024},
        **settings,
    }
    return Settings.model_validate(given)


def _is_probed(proxy: Proxy) -> bool:
    facts = proxy._catalogue.cached(MODEL)
    return facts is not None and facts.same_render is not None


def chat(*, stream: bool | None = None, **more: Any) -> dict[str, Any]:
    """A body for ``/api/chat``, and with a ``model`` and ``messages`` for ``/v1`` too."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **more}
    return body if stream is None else {**body, "stream": stream}


def generate(*, stream: bool | None = None, **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": "hi", **more}
    return body if stream is None else {**body, "stream": stream}


def chat_token(text: str) -> dict[str, Any]:
    return {
        "model": MODEL,
        "created_at": MOMENT,
        "message": {"role": "assistant", "content": text},
        "done": False,
    }


def chat_end() -> dict[str, Any]:
    return {**chat_token(""), "done": True, **FINAL}


def sse(data: dict[str, Any], event: str = "") -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def v1_token(text: str, model: str = MODEL) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model, "choices": [choice]})

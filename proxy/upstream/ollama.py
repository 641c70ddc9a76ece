"""The proxy's own calls to Ollama: what is loaded, what a model is, load this.

Requests of clients do not go through here (``exchange`` and ``session`` carry those). Each call either answers with
what Ollama said or raises one of three errors: :class:`UpstreamUnreachable` when nothing was sent,
:class:`UpstreamTimeout` past a limit, :class:`UpstreamBroken` for a connection that was lost and for an answer that
makes no sense. A status of Ollama's own is an answer for :meth:`Ollama.load` and an :class:`UpstreamBroken` elsewhere,
except that a model which does not exist is ``None`` for :meth:`Ollama.show`.

Shapes: v0.24.0, api/types.go.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.wire.times import parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from proxy.upstream.connecting import Attempt, Connecting

# These read files at most. They do not wait for a load.
_QUICK_S: Final = 10.0
_SHOW_S: Final = 30.0
# Control answers are small; /api/show of a model with many tensors is the largest, some 100 KiB.
_MAX_BODY_BYTES: Final = 64 * 2**20
_HEADERS: Final = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class RunningModel:
    """One row of ``/api/ps``.

    Attributes:
        name: The name that loaded it, which need not be the one that a client calls.
        expires_unix: When Ollama unloads it, unless it is used; some 290 years ahead for "never". It may lie in the
            past while the model is in use (v0.24.0, server/sched.go: set when a request ends). ``None``: unreadable.
        context_length: What the runner really has: Ollama cuts ``num_ctx`` to the trained size; 0 where not told.
    """

    name: str
    digest: str = ""
    size_bytes: int = 0
    vram_bytes: int = 0
    expires_unix: float | None = None
    context_length: int = 0


@dataclass(frozen=True, slots=True)
class TagEntry:
    """One row of ``/api/tags``."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LoadReply:
    """What Ollama said to a load.

    Attributes:
        error: Its error text; "" for a success.
    """

    status: int
    error: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status < 300 and not self.error


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON object of a small call."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> str:
        text = self.body.get("error", "")
        return text if isinstance(text, str) else json.dumps(text)


class Ollama:
    """Calls one Ollama server.

    Args:
        session: aiohttp's client for calls of the proxy's own; not closed here.
        base_url: Scheme, host and port.
        connecting: What is shared with others that reach it; ``None`` where nobody does. Loads, which requests wait
            for, are subject to its breaker; all other calls only tell it of answers, because it is they that find out
            when Ollama is back.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str, connecting: Connecting | None = None) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._connecting = connecting

    def __repr__(self) -> str:
        return f"<Ollama {self._base_url}>"

    async def version(self) -> str:
        """The server's version; the cheapest call that proves that it answers."""
        version = (await self._asked("GET", "/api/version")).get("version")
        return version if isinstance(version, str) else ""

    async def ps(self) -> list[RunningModel]:
        """What is loaded now, models that are just being loaded included."""
        return [_running(row) for row in _rows(await self._asked("GET", "/api/ps"))]

    async def tags(self) -> list[TagEntry]:
        """What is stored."""
        return [
            TagEntry(str(row.get("name", "")), str(row.get("digest", "")), _count(row.get("size")))
            for row in _rows(await self._asked("GET", "/api/tags"))
        ]

    async def show(self, name: str) -> dict[str, Any] | None:
        """What a model is; ``None`` where Ollama does not have it or cannot read it."""
        answer = await self.call("/api/show", {"model": name}, timeout_s=_SHOW_S)
        if answer.status in {400, 404}:
            return None
        return _checked(answer, "/api/show")

    async def load(
        self,
        name: str,
        options: Mapping[str, object],
        keep_alive: object | None,
        *,
        embedding_only: bool,
        timeout_s: float,
    ) -> LoadReply:
        """Load a model, or make sure that it is loaded with these options. Cheap when it is.

        An embedding-only model is refused by ``/api/generate`` and loads through ``/api/embed`` without input. The
        load is aborted when this call is cancelled, so nothing that a client can cancel may await it directly.

        Source: v0.24.0, server/routes.go ``GenerateHandler`` ("load the model"), ``EmbedHandler``; llm/server.go.

        Raises:
            UpstreamUnreachable: Also where Ollama is left alone for a moment; it then says for how long.
        """
        body: dict[str, Any] = {"model": name}
        if options:
            body["options"] = dict(options)
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        if not embedding_only:
            body["stream"] = False
        started = time.monotonic()
        path = "/api/embed" if embedding_only else "/api/generate"
        if self._connecting is None:
            answer = await self.call(path, body, timeout_s=timeout_s)
        else:
            with self._connecting.attempt() as attempt:
                async with self._request("POST", path, body, timeout_s=timeout_s, attempt=attempt) as reply:
                    answer = await _read(reply, path)
        return LoadReply(answer.status, answer.error, time.monotonic() - started)

    async def unload(self, name: str) -> bool:
        """Ask for a model to be unloaded once it is idle."""
        return (await self.call("/api/generate", {"model": name, "keep_alive": 0, "stream": False})).status == 200

    async def chat_once(self, body: dict[str, Any], *, timeout_s: float) -> Answer:
        """A whole chat answer, for warm-ups."""
        return await self.call("/api/chat", {**body, "stream": False}, timeout_s=timeout_s)

    async def embed_once(self, body: dict[str, Any], *, timeout_s: float) -> Answer:
        """A whole embedding, for the warm-up of models that can do nothing else."""
        return await self.call("/api/embed", body, timeout_s=timeout_s)

    async def render(self, path: str, body: bytes, *, timeout_s: float = _SHOW_S) -> bytes:
        """The answer to a request with ``_debug_render_only``, as Ollama wrote it and whatever its status."""
        async with self._request("POST", path, body, timeout_s=timeout_s) as reply:
            return await _read_bytes(reply, path)

    async def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Pull a model; its progress, line by line. The caller stops at will.

        Raises:
            UpstreamBroken: Ollama refused, or reported an error in mid-stream.
        """
        async with self._request("POST", "/api/pull", {"model": name}, timeout_s=None) as reply:
            async for line in reply.content:
                try:
                    frame = json.loads(line)
                except ValueError:
                    continue
                if isinstance(frame, dict):
                    if "error" in frame:
                        raise UpstreamBroken(f"pull of {name} failed: {frame['error']}")
                    yield frame

    async def call(self, path: str, body: dict[str, Any], *, timeout_s: float = _QUICK_S) -> Answer:
        """POST a JSON object and read the JSON object that answers it, whatever the status."""
        async with self._request("POST", path, body, timeout_s=timeout_s) as reply:
            return await _read(reply, path)

    async def _asked(self, method: str, path: str) -> dict[str, Any]:
        async with self._request(method, path, None, timeout_s=_QUICK_S) as reply:
            return _checked(await _read(reply, path), path)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None,
        *,
        timeout_s: float | None,
        attempt: Attempt | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange; aiohttp's errors become ours here and nowhere else."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            async with asyncio.timeout(timeout_s):
                async with await self._send(method, path, data, attempt) as reply:
                    if self._connecting is not None:
                        self._connecting.on_answer()
                    yield reply
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if attempt is not None:
                attempt.on_failure()
            raise UpstreamUnreachable("Ollama cannot be reached") from error
        except TimeoutError as error:
            raise UpstreamTimeout(f"Ollama did not answer {path} in time") from error
        except aiohttp.ClientError as error:
            raise UpstreamBroken(f"Ollama broke off its answer to {path}") from error

    async def _send(
        self, method: str, path: str, data: bytes | None, attempt: Attempt | None
    ) -> aiohttp.ClientResponse:
        """Send until the reply's head is there; once more where a kept connection turns out to be dead.

        After a restart of Ollama every kept connection is. All calls of the proxy's own may be repeated.
        """
        send = functools.partial(
            self._session.request,
            method,
            self._base_url + path,
            data=data,
            headers=_HEADERS,
            allow_redirects=False,
            trace_request_ctx=attempt,
        )
        try:
            return await send()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await send()


async def _read_bytes(reply: aiohttp.ClientResponse, path: str) -> bytes:
    raw = bytearray()
    async for piece in reply.content.iter_any():
        raw += piece
        if len(raw) > _MAX_BODY_BYTES:
            raise UpstreamBroken(f"Ollama's answer to {path} is too large")
    return bytes(raw)


async def _read(reply: aiohttp.ClientResponse, path: str) -> Answer:
    raw = await _read_bytes(reply, path)
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if isinstance(body, dict):
        return Answer(reply.status, body)
    if reply.status >= 400:
        # gin answers a path that it does not know, and a Host that it does not like, in plain text or with nothing.
        return Answer(reply.status, {"error": raw[:500].decode(errors="replace") or f"status {reply.status}"})
    raise UpstreamBroken(f"Ollama's answer to {path} is not a JSON object")


def _checked(answer: Answer, path: str) -> dict[str, Any]:
    if answer.status != 200:
        raise UpstreamBroken(f"Ollama answered {path} with {answer.status}: {answer.error[:200]}")
    return answer.body


def _rows(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = body.get("models")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _running(row: Mapping[str, Any]) -> RunningModel:
    return RunningModel(
        name=str(row.get("name") or row.get("model") or ""),
        digest=str(row.get("digest", "")),
        size_bytes=_count(row.get("size")),
        vram_bytes=_count(row.get("size_vram")),
        expires_unix=parse_time(row.get("expires_at")),
        context_length=_count(row.get("context_length")),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0

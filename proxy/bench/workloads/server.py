"""One side of a comparison, beside its measured calls: what it has, what is loaded, and unloading.

Source of the routes and fields: Ollama v0.24.0, docs/api.md; server/routes.go.
"""

from __future__ import annotations

import asyncio
import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from proxy.bench.first_token import reason_of
from proxy.wire.names import canonical
from proxy.wire.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A load may take minutes, and so may the prompt of somebody else's in front of us.
_CALL_S: Final = 1800.0
_LOOK_S: Final = 30.0
_CONNECT_S: Final = 10.0
_POLL_S: Final = 0.02
# An expired runner stays listed until its memory is back, which Ollama waits for up to 5 s (server/sched.go).
_GONE_S: Final = 15.0


class ServerError(Exception):
    """A side cannot be measured; the message is one line that names its address."""


class UnknownModelError(ServerError):
    """The model is not there, or does not write texts."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row of ``/api/ps``.

    Attributes:
        expires_at: As written. Two servers never have the same one, because it has nanoseconds.
        left_s: Until then, on the server's own clock; below 0 while it is being unloaded.
        size_bytes, vram_bytes: Memory that it takes, and the part of it on the graphics card.
    """

    name: str
    expires_at: str
    left_s: float
    size_bytes: int
    vram_bytes: int
    context_length: int | None


class Server:
    """One address, with its own connections.

    Args:
        flag: How the user named it, as ``--direct``, for messages.
        url: Without a trailing slash, and without user and password.
        headers: Sent along with every call.

    Use it as an async context manager.
    """

    def __init__(self, flag: str, url: str, headers: Mapping[str, str]) -> None:
        self.flag = flag
        self.url = url
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Server {self.flag}>"

    async def __aenter__(self) -> Server:
        timeout = aiohttp.ClientTimeout(total=_CALL_S, sock_connect=_CONNECT_S)
        # No limit of our own: a call that waits for a connection here would be measured as slow.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("not entered")
        return self._session

    async def version(self) -> str | None:
        """What ``/api/version`` answers.

        Raises:
            ServerError: Nothing answers there, or nothing like Ollama.
        """
        answer = await self._look("GET", "/api/version")
        version = answer.get("version")
        return version if isinstance(version, str) else None

    async def describe(self, model: str) -> Mapping[str, Any]:
        """What ``/api/show`` answers about a model that writes texts.

        Raises:
            UnknownModelError: It is not there, or only embeds.
            ServerError: As ``version``.
        """
        try:
            shown = await self._look("POST", "/api/show", {"model": model})
        except _RefusedError as error:
            if error.status != 404:
                raise
            names = ", ".join(row["name"] for row in await self.installed()) or "none"
            raise UnknownModelError(f"{self.flag} {self.url} has no model {model}; it has: {names}") from None
        capabilities = shown.get("capabilities")
        if isinstance(capabilities, list) and "completion" not in capabilities:
            raise UnknownModelError(f"{model} on {self.flag} {self.url} writes no texts, so it has no first token")
        return shown

    async def installed(self) -> Sequence[Mapping[str, Any]]:
        """The rows of ``/api/tags``."""
        rows = (await self._look("GET", "/api/tags")).get("models")
        return [row for row in rows if isinstance(row, dict) and "name" in row] if isinstance(rows, list) else []

    async def loaded(self, model: str) -> Loaded | None:
        """The row of ``/api/ps`` for a model; ``None`` where it is not loaded."""
        answer, now = await self._look_at_clock("/api/ps")
        for row in answer.get("models") or ():
            if canonical(str(row.get("name", ""))) == canonical(model):
                return _loaded(row, now)
        return None

    async def unload(self, model: str) -> bool:
        """Ask for an unload, as ``ollama stop`` does; whether it was taken. Returns before the model is gone."""
        try:
            await self._look("POST", "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
        except _RefusedError:
            return False
        return True

    async def load(self, model: str) -> None:
        """Have it loaded without a prompt, and wait for it.

        Raises:
            ServerError: It was refused, or failed.
        """
        await self._look("POST", "/api/generate", {"model": model, "stream": False}, _CALL_S)

    async def wait_gone(self, model: str) -> bool:
        """Wait until the model is not listed any more; whether it went."""
        return await self._wait(model, _GONE_S, is_loaded=False)

    async def wait_loaded(self, model: str, timeout_s: float) -> bool:
        """Give the side time to load the model by itself; whether it did."""
        return await self._wait(model, timeout_s, is_loaded=True)

    async def _wait(self, model: str, timeout_s: float, *, is_loaded: bool) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if (await self.loaded(model) is not None) is is_loaded:
                        return True
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False

    async def fetch_text(self, path: str) -> str:
        """A page that is not of Ollama's API.

        Raises:
            ServerError: It is not there.
        """
        try:
            async with self.session.get(f"{self.url}{path}", timeout=aiohttp.ClientTimeout(total=_LOOK_S)) as reply:
                text = await reply.text()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServerError(f"{self.flag} {self.url}: {reason_of(error)}") from None
        if reply.status != 200:
            raise ServerError(f"{self.flag} {self.url}: GET {path} answered {reply.status}")
        return text

    async def _look(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = _LOOK_S
    ) -> Mapping[str, Any]:
        return (await self._exchange(method, path, body, timeout_s))[0]

    async def _look_at_clock(self, path: str) -> tuple[Mapping[str, Any], datetime]:
        return await self._exchange("GET", path, None, _LOOK_S)

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> tuple[Mapping[str, Any], datetime]:
        url = f"{self.url}{path}"
        where = f"{self.flag} {self.url}"
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
            async with self.session.request(method, url, json=body, timeout=timeout) as reply:
                if reply.status != 200:
                    text = " ".join((await reply.text(errors="replace"))[:200].split())
                    raise _RefusedError(f"{where}: {method} {path} answered {reply.status}: {text}", reply.status)
                answer = await reply.json(content_type=None)
                date = email.utils.parsedate_to_datetime(reply.headers["Date"]) if "Date" in reply.headers else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerError(f"{where}: {reason_of(error)}") from None
        except ValueError:
            raise ServerError(f"{where}: {method} {path} answered with what is no JSON; is it Ollama?") from None
        if not isinstance(answer, dict):
            raise ServerError(f"{where}: {method} {path} answered with what is no object; is it Ollama?")
        return answer, date or datetime.now(UTC)


class _RefusedError(ServerError):
    """Another status than 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _loaded(row: Mapping[str, Any], now: datetime) -> Loaded:
    text = str(row.get("expires_at", ""))
    context = row.get("context_length")
    return Loaded(
        name=str(row.get("name", "")),
        expires_at=text,
        left_s=_left_s(text, now),
        size_bytes=int(row.get("size") or 0),
        vram_bytes=int(row.get("size_vram") or 0),
        context_length=context if isinstance(context, int) else None,
    )


def _left_s(text: str, now: datetime) -> float:
    expires_unix = parse_time(text)
    return 0.0 if expires_unix is None else expires_unix - now.timestamp()

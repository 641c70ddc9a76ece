"""One small request to whatever is there: how far it comes, what it brings, and what time it is on the other side."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from proxy.bench.first_token import why_unconnected
from proxy.doctor.facts import Contact, Reached, Stamp
from proxy.observe.row import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

ANSWER_S: Final = 10.0
# A list of a thousand requests with long names is half a MiB; a page of metrics as much.
_MOST_BYTES: Final = 8 * 2**20
_TEXT: Final = 300


def stamping(stamps: list[Stamp]) -> aiohttp.TraceConfig:
    """Notes the ``Date`` of each answer, and when by our clock it can have been made."""

    async def on_start(session: object, trace: SimpleNamespace, params: object) -> None:
        trace.sent = time.time()

    async def on_end(session: object, trace: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        received = time.time()
        try:
            date = parsedate_to_datetime(params.response.headers.get("Date", ""))
        except ValueError:
            return
        stamps.append(Stamp(trace.sent, received, date.timestamp()))

    config = aiohttp.TraceConfig()
    config.on_request_start.append(on_start)
    config.on_request_end.append(on_end)
    return config


async def contact(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None, answer_s: float = ANSWER_S
) -> Contact:
    """One small GET, and how far it came.

    Args:
        session: With a limit to connecting of its own.
        url: What is asked.
        headers: Beside the session's.
        answer_s: Longest wait for all of the answer.
    """
    began = time.monotonic()

    def took_s() -> float:
        return time.monotonic() - began

    try:
        async with asyncio.timeout(answer_s), session.get(url, headers=headers, allow_redirects=False) as reply:
            raw = await read(reply)
    except aiohttp.ClientConnectorDNSError as error:
        return Contact(url, Reached.NO_NAME, text=_said(error), took_s=took_s())
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        return Contact(url, Reached.TLS, text=_said(error), took_s=took_s())
    except aiohttp.ClientConnectorError as error:
        reached = Reached.REFUSED if error.os_error.errno == errno.ECONNREFUSED else Reached.NO_ROUTE
        return Contact(url, reached, text=printable(why_unconnected(error), _TEXT), took_s=took_s())
    except aiohttp.ConnectionTimeoutError:
        return Contact(url, Reached.TIMED_OUT, took_s=took_s())
    except TimeoutError:
        return Contact(url, Reached.SILENT, took_s=took_s())
    except (aiohttp.ClientError, OSError) as error:
        return Contact(url, Reached.BROKEN, text=_said(error), took_s=took_s())
    text = printable(raw[:_TEXT].decode(errors="replace"), _TEXT)
    server = printable(reply.headers.get("Server", ""), 64)
    return Contact(url, Reached.ANSWERED, reply.status, _object(raw), text, server, took_s())


def _said(error: BaseException) -> str:
    return printable(str(error) or type(error).__name__, _TEXT)


async def read(reply: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in reply.content.iter_any():
        raw += piece
        if len(raw) > _MOST_BYTES:
            break
    return bytes(raw)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

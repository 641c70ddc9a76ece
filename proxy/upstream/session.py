"""aiohttp's client as this proxy needs it. Only this folder touches ``aiohttp.ClientSession``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.exchange import NoReply
from proxy.wire.headers import first
from proxy.wire.http1 import ReplyHead

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable
    from types import SimpleNamespace

    from multidict import CIMultiDict
    from yarl import URL

    from proxy.upstream.connecting import Attempt

# Ollama's own replies have small heads; hops in between add to them.
_MAX_FIELD_BYTES: Final = 64 * 1024
# A stalled reader costs twice this, so it is far below aiohttp's 256 KiB.
_READ_BUFFER_BYTES: Final = 16 * 1024

INVENTED_FIELDS: Final = frozenset({"Accept", "Accept-Encoding", "User-Agent", "Content-Type"})


class StaleConnection(NoReply):
    """It had carried others before, so that the request may not be what ended it."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Three clients of one upstream. None of them repeats anything; what is repeated is decided in ``retry``.

    Attributes:
        pooled: Reuses connections, for what may be sent again when a reused one turns out dead.
        fresh: A connection for each request, for what must not happen twice, and for repetitions.
        control: For the proxy's own calls; carries its name.
    """

    pooled: aiohttp.ClientSession
    fresh: aiohttp.ClientSession
    control: aiohttp.ClientSession

    async def aclose(self) -> None:
        for session in (self.pooled, self.fresh, self.control):
            await session.close()


def open_sessions(*, connect_timeout_s: float, via: str, user_agent: str) -> Sessions:
    """Open the clients. Must be called on the event loop.

    Args:
        connect_timeout_s: For one connect.
        via: This proxy's entry for the ``Via`` field of its own calls, by which it knows itself.
        user_agent: Of its own calls.
    """

    def session(*, reuse: bool, headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
        # limit=0: aiohttp's default would make request 101 wait where nobody sees it.
        connector = aiohttp.TCPConnector(limit=0, force_close=not reuse)
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            max_line_size=_MAX_FIELD_BYTES,
            headers=headers,
            trace_configs=[_told_to_attempts()],
        )
        # aiohttp repeats PUT and DELETE too, on fresh connections as well (client.py, ``IDEMPOTENT_METHODS``): a delete
        # could run twice. And it repeats on whatever is pooled, which after a restart is as dead as the first one.
        # There is no public switch.
        session._retry_connection = False
        return session

    return Sessions(
        pooled=session(reuse=True),
        fresh=session(reuse=False),
        control=session(reuse=True, headers={"Via": via, "User-Agent": user_agent}),
    )


def _told_to_attempts() -> aiohttp.TraceConfig:
    """Has aiohttp's client say whether a request's connection is a new one, which its reply does not tell."""

    async def on_create(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.on_connected()

    async def on_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.on_reused()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(on_create)
    trace.on_connection_reuseconn.append(on_reuse)
    return trace


async def send(
    session: aiohttp.ClientSession,
    attempt: Attempt,
    method: str,
    url: URL,
    headers: CIMultiDict[str],
    data: bytes | AsyncIterable[bytes] | None,
) -> aiohttp.ClientResponse:
    """Send a client's request as it is; aiohttp's errors become ours here.

    Args:
        session: ``Sessions.pooled`` or ``Sessions.fresh``.
        attempt: Is told of the connection and of the answer.
        method: As the client sent it.
        url: Encoded.
        headers: All of them; nothing is added but what the hop needs.
        data: The body; a stream is taken from only once a connection stands.

    Returns:
        The reply, when its head is here. The caller closes it.

    Raises:
        UpstreamUnreachable: No connection; nothing was sent.
        StaleConnection, NoReply: The connection, a reused or a new one, ended before a head.
        UpstreamTimeout: A limit of the session's passed.
        UpstreamBroken: No head that can be read.
    """
    try:
        reply = await session.request(
            method,
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            skip_auto_headers=INVENTED_FIELDS,
            trace_request_ctx=attempt,
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise UpstreamUnreachable("the upstream cannot be reached") from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        kind = StaleConnection if attempt.is_reused else NoReply
        raise kind("the upstream closed the connection without a reply") from error
    except TimeoutError as error:
        raise UpstreamTimeout("the upstream did not answer in time") from error
    except aiohttp.ClientError as error:
        raise UpstreamBroken("the upstream's reply cannot be read") from error
    attempt.on_answer()
    return reply


def fail_with_connection(reply: aiohttp.ClientResponse) -> None:
    """Have a reply's body fail where its connection is lost before its end.

    aiohttp 3.14.5 leaves a reader waiting for ever after broken chunk framing, and takes a reset for the end of a body
    that ends with its connection (client_proto.py, ``data_received`` and ``connection_lost``).
    """
    connection = reply.connection
    closed = connection.protocol.closed if connection is not None and connection.protocol is not None else None
    if closed is None:
        return
    content = reply.content
    is_framed = "Content-Length" in reply.headers or "Transfer-Encoding" in reply.headers

    def on_closed(closed: asyncio.Future[None]) -> None:
        was_reset = not closed.cancelled() and closed.exception() is not None
        if content.exception() is None and (not content.is_eof() or (was_reset and not is_framed)):
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))

    closed.add_done_callback(on_closed)


def reply_head(reply: aiohttp.ClientResponse) -> ReplyHead:
    """The head of a reply that aiohttp's client read; the connection is aiohttp's to keep."""
    fields = tuple(reply.raw_headers)
    length = first(fields, b"content-length")
    return ReplyHead(
        status=reply.status,
        reason=(reply.reason or "").encode("latin-1", "replace"),
        fields=fields,
        chunked=length is None,
        length_bytes=None if length is None else int(length),
        reusable=False,
        content_type=(first(fields, b"content-type") or b"").partition(b";")[0].strip().lower(),
    )

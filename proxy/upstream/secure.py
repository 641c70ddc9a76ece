"""Generation calls to an ``https://`` upstream: aiohttp's client, feeding the same sinks as the hot path's own."""

from __future__ import annotations

import asyncio

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import UpstreamBroken, UpstreamUnreachable
from proxy.upstream.exchange import CUT_MESSAGE, NoReply, Sink, UpstreamRequest
from proxy.upstream.session import INVENTED_FIELDS, fail_with_connection, reply_head
from proxy.wire.http1 import chunk


class SecureExchange:
    """One reply on its way; ends with its last byte or with :meth:`abort`."""

    def __init__(self, reply: aiohttp.ClientResponse, sink: Sink) -> None:
        self._reply = reply
        self._sink = sink
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.task = asyncio.get_running_loop().create_task(self._feed())

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def abort(self) -> None:
        self.task.cancel()

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """The framing is made here, so no chunk is ever left open."""
        return (0, False)

    async def _feed(self) -> None:
        head = reply_head(self._reply)
        fail_with_connection(self._reply)
        try:
            self._sink.on_head(head)
            async for piece in self._reply.content.iter_any():
                if piece:
                    self._sink.on_body(chunk(piece) if head.chunked else piece, piece)
                await self._may_read.wait()
        except (aiohttp.ClientError, TimeoutError):
            self._sink.on_failure(UpstreamBroken(CUT_MESSAGE))
        except ValueError as error:
            # A sink's: what it was given is no reply that it can read.
            self._sink.on_failure(UpstreamBroken(f"the upstream's reply is malformed: {error}"))
        else:
            self._sink.on_end()
        finally:
            self._reply.close()


class SecureExchanges:
    """Sends generation calls over TLS.

    Args:
        base_url: ``https://host[:port]``.
        session: aiohttp's client without repetition.
    """

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._base_url = base_url
        self._session = session
        self._running: set[asyncio.Task[None]] = set()

    async def exchange(self, request: UpstreamRequest, sink: Sink) -> SecureExchange:
        """Send a request and give its reply to a sink. Returns when the head is here.

        Raises:
            UpstreamUnreachable: No connection; nothing was sent.
            UpstreamBroken: No reply that can be read.
        """
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in request.fields)
        try:
            reply = await self._session.request(
                request.method,
                URL(self._base_url + request.target, encoded=True),
                headers=headers,
                data=request.body,
                allow_redirects=False,
                skip_auto_headers=INVENTED_FIELDS,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamUnreachable("the upstream cannot be reached") from error
        except aiohttp.ServerDisconnectedError as error:
            raise NoReply("the upstream closed the connection without a reply") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamBroken("the upstream's reply cannot be read") from error
        exchange = SecureExchange(reply, sink)
        self._running.add(exchange.task)
        exchange.task.add_done_callback(self._running.discard)
        return exchange

    async def aclose(self) -> None:
        """End every exchange."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

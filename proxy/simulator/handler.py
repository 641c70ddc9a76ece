"""From a request to its handler, and from a failure to its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.simulator.engine.faults import BEFORE_HEAD, CleanEnd, CutConnection, ServerCrash
from proxy.simulator.net import cors
from proxy.simulator.net.router import Router, clean_path, redirect
from proxy.simulator.routes.call import Call, Refusal, Sink
from proxy.simulator.state import SeenRequest, ServerState, now_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.simulator.net.connection import Exchange

_TEXT_TYPE = "text/plain"


class Handler:
    """Answers the requests of one server."""

    def __init__(self, state: ServerState, router: Router[Call], crash: Callable[[], None]) -> None:
        self._state = state
        self._router = router
        self._crash = crash
        self._origins = cors.allowed_origins(state.environment.origins)

    async def __call__(self, exchange: Exchange) -> None:
        head = exchange.head
        seen = SeenRequest(head.method, head.target, list(head.headers), now_s())
        self._state.remember(seen)
        try:
            await self._answer(exchange, seen)
        except asyncio.CancelledError:
            seen.left_s = now_s()
            raise
        finally:
            seen.status = exchange.response.status
            seen.body_bytes = max(seen.body_bytes, exchange.body_bytes)
            seen.finished_s = now_s()

    async def _answer(self, exchange: Exchange, seen: SeenRequest) -> None:
        try:
            if not self._fault(exchange, seen):
                await self._route(exchange, seen)
        except CutConnection as cut:
            if cut.in_line:
                exchange.connection.send(b"40\r\n" + b'{"model":"cut in the middle of a li')
            exchange.connection.cut(reset=cut.reset)
        except CleanEnd:
            pass
        except ServerCrash:
            exchange.connection.cut(reset=True)
            self._crash()

    def _fault(self, exchange: Exchange, seen: SeenRequest) -> bool:
        """Whether a planned fault has answered the request."""
        fault = self._state.faults.take(BEFORE_HEAD, seen.path, "")
        if fault is None:
            return False
        if fault.kind != "status":
            raise CutConnection(reset=fault.kind == "reset")
        Sink(exchange.response).error(fault.status, fault.text)
        return True

    async def _route(self, exchange: Exchange, seen: SeenRequest) -> None:
        head, response = exchange.head, exchange.response
        if head.get("Expect") and head.get("Expect").lower() != "100-continue":
            response.close_after = True
            response.write_header(417)
            return
        if (head.method, head.target) == ("OPTIONS", "*"):
            return
        path = head.path
        cleaned = clean_path(path)
        if cleaned != path and head.method != "CONNECT":
            redirect(head, response, cleaned, 307)
            return
        match = self._router.find(head.method, path)
        if match.moved_to:
            redirect(head, response, match.moved_to, 301 if head.method == "GET" else 307)
            return
        if match.allowed:
            response.headers["Allow"] = [", ".join(match.allowed)]
        environment = self._state.environment
        if not cors.apply(head, response, self._origins, checks_host=environment.checks_host):
            return
        if match.handler is None:
            self._unknown(exchange, known_path=bool(match.allowed))
            return
        call = Call(self._state, exchange, seen, Sink(response), match.params)
        await run(match.handler, call)

    def _unknown(self, exchange: Exchange, *, known_path: bool) -> None:
        exchange.response.headers["Content-Type"] = [_TEXT_TYPE]
        exchange.response.write_header(405 if known_path else 404)
        exchange.response.write(b"405 method not allowed" if known_path else b"404 page not found")


async def run(handler: Callable[[Call], Awaitable[None]], call: Call) -> None:
    """Run a handler; a refusal becomes its answer."""
    try:
        await handler(call)
    except Refusal as refusal:
        call.sink.error(refusal.status, refusal.text)

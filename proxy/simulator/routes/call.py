"""A request on its way through a handler, and the sinks that answers go into.

A handler answers with objects; a sink decides what becomes of them. The native sink writes them as gin does
(``c.JSON``, ``streamResponse``); the sinks of the compatibility routes turn them into their own shapes, as Ollama's
middleware does by wrapping the response writer.

Source: Ollama v0.24.0 ``server/routes.go`` (``streamResponse``, ``waitForStream``), gin v1.10.0 ``render/json.go``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonbind import Struct, unmarshal_struct
from proxy.simulator.golang.jsonin import EmptyInput, GoError
from proxy.simulator.net.connection import BrokenBody, Exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.simulator.net.writer import ResponseWriter
    from proxy.simulator.state import SeenRequest, ServerState

JSON_TYPE: Final = "application/json; charset=utf-8"


class Refusal(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Sink:
    """The native shape of answers."""

    def __init__(self, response: ResponseWriter) -> None:
        self.response = response
        self._streaming = False

    def json(self, status: int, value: object) -> None:
        """Answer with one object (``c.JSON``)."""
        self.response.headers.setdefault("Content-Type", [JSON_TYPE])
        self.response.write_header(status)
        self.put(value)

    def error(self, status: int, text: str) -> None:
        """Answer with an error; within a stream, end it with an error line (``streamResponse``)."""
        if self._streaming and self.response.written:
            self.put({"error": text}, newline=True)
            self.flush()
            return
        if self._streaming:
            self.response.set_header("Content-Type", "application/json")
        self.json(status, {"error": text})
        if self._streaming:
            self.flush()

    def begin_stream(self) -> None:
        """The answer will be a stream."""
        self._streaming = True
        self.response.set_header("Content-Type", "application/x-ndjson")

    def line(self, value: object) -> None:
        """One object of a stream."""
        self.put(value, newline=True)
        self.flush()

    def put(self, value: object, *, newline: bool = False) -> None:
        """Write one object in the sink's shape."""
        self.response.write(f"{jsonout.marshal(value)}{chr(10) if newline else ''}".encode("utf-8", "replace"))

    def flush(self) -> None:
        """Send what is written."""
        self.response.flush()


@dataclass(slots=True)
class Call:
    """One request and what is needed to answer it."""

    state: ServerState
    exchange: Exchange
    seen: SeenRequest
    sink: Sink
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    model_name: str = ""
    relaxed_thinking: bool = False

    async def read(self) -> bytes:
        """The body: as received, or as a compatibility route has rewritten it."""
        if self.body is None:
            try:
                self.body = await self.exchange.body()
            except BrokenBody as error:
                raise Refusal(400, str(error)) from None
            self.seen.body = self.body
        return self.body

    async def bind(self, into: Struct, *, empty: str = "missing request body") -> dict[str, object]:
        """The body as a Go struct (``ShouldBindJSON``).

        Raises:
            Refusal: 400 with Go's text.
        """
        try:
            return unmarshal_struct(await self.read(), into)
        except EmptyInput:
            raise Refusal(400, empty) from None
        except GoError as error:
            raise Refusal(400, str(error)) from None

"""What the compatibility routes share: error shapes, and reading loosely typed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.simulator.engine.names import parse_reference
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonbind import plain
from proxy.simulator.golang.jsonin import GoError, parse
from proxy.simulator.net.connection import BrokenBody
from proxy.simulator.routes.call import Call, Sink
from proxy.simulator.routes.lookup import refuse_cloud

_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def as_text(value: object) -> str:
    """A text, or "" where it is none."""
    return value if isinstance(value, str) else ""


def as_list(value: object) -> list[object]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def as_mapping(value: object) -> Mapping[str, object]:
    """An object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


class OpenAISink(Sink):
    """Errors in OpenAI's shape; answers through ``convert``.

    While the middleware itself reads the request, errors are written by gin and lack the final newline; once the
    writer is wrapped (any subclass), they have it.
    """

    def __init__(self, call: Call) -> None:
        super().__init__(call.sink.response)
        self.call = call

    def convert(self, value: Mapping[str, object]) -> None:
        """Write one native object in the route's shape."""
        raise NotImplementedError

    def plain(self, value: object) -> None:
        """One object with a newline, as ``json.Encoder`` writes it."""
        self.response.headers["Content-Type"] = ["application/json"]
        self.response.write(f"{jsonout.marshal(value)}\n".encode("utf-8", "replace"))

    def event(self, value: object) -> None:
        """One server-sent event without a name."""
        self.response.write(f"data: {jsonout.marshal(value)}\n\n".encode("utf-8", "replace"))

    def begin_stream(self) -> None:
        self._streaming = True
        self.response.set_header("Content-Type", "application/x-ndjson")

    def error(self, status: int, text: str) -> None:
        if type(self) is OpenAISink:
            self.json(status, openai_error(status, text))
            return
        if self.response.written:
            self.put({"error": text})
            self.flush()
            return
        self.response.set_header("Content-Type", "application/json")
        self.response.write_header(status)
        # api.StatusError.Error: an empty message has a text of its own.
        shown = text or "something went wrong, please see the ollama server logs for details"
        self.response.write(f"{jsonout.marshal(openai_error(status, shown))}\n".encode("utf-8", "replace"))
        if self._streaming:
            self.flush()

    def put(self, value: object, *, newline: bool = False) -> None:
        if type(self) is OpenAISink:
            super().put(value, newline=newline)
        else:
            self.convert(as_mapping(value))


def openai_error(status: int, text: str) -> dict[str, object]:
    """``openai.NewError``."""
    return {"error": {"message": text, "type": _TYPES.get(status, "api_error"), "param": None, "code": None}}


async def refuse_cloud_model(call: Call) -> None:
    """``cloudPassthroughMiddleware``: a model said to be in the cloud is not served here.

    Raises:
        Refusal: in the native shape, which is what Ollama uses for it.
    """
    try:
        body = await call.read()
        node = parse(body)
    except (GoError, BrokenBody):
        return
    if node.kind != "object":
        return
    names = [member for name, member in node.members() if name == "model"]
    value = plain(names[-1]) if names else None
    try:
        is_cloud = isinstance(value, str) and parse_reference(value).source == "cloud"
    except GoError:
        return
    if is_cloud:
        raise refuse_cloud(call)

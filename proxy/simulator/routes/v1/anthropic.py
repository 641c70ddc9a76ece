"""/v1/messages (Ollama v0.24.0 ``middleware/anthropic.go``, ``anthropic/anthropic.go``)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Final

from proxy.simulator.api.requests import TOOL_PARAMETERS
from proxy.simulator.api.v1 import MESSAGES
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonbind import decode_base64, unmarshal
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes import chat
from proxy.simulator.routes.call import Call, Refusal, Sink
from proxy.simulator.routes.v1.convert import Native, encoded, native_message
from proxy.simulator.routes.v1.shape import as_list, as_mapping, as_text, refuse_cloud_model

Frame = Mapping[str, object]
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def anthropic_error(status: int, text: str) -> dict[str, object]:
    """``anthropic.NewError``."""
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, "api_error"), "message": text},
        "request_id": f"req_{secrets.token_hex(12)}",
    }


class _EarlySink(Sink):
    """Errors before the writer is wrapped: without the final newline."""

    def error(self, status: int, text: str) -> None:
        self.json(status, anthropic_error(status, text))


class MessagesSink(Sink):
    """Native chat frames to a message, or to its events."""

    def __init__(self, call: Call, request: Frame, estimate: int) -> None:
        super().__init__(call.sink.response)
        self._streams = request["stream"] is True
        # The writer for web search does not set the type of a stream, so the native one stays.
        self._names_type = not any(_searches(as_mapping(tool)) for tool in as_list(request["tools"]))
        self._id = f"msg_{secrets.token_hex(12)}"
        self._events = _Events(self._id, as_text(request["model"]), estimate)

    def begin_stream(self) -> None:
        self._streaming = True
        self.response.set_header("Content-Type", "application/x-ndjson")

    def error(self, status: int, text: str) -> None:
        if self.response.written:
            self.put({"error": text})
            self.flush()
            return
        self.response.set_header("Content-Type", "application/json")
        self.response.write_header(status)
        self._plain(anthropic_error(status, text))
        if self._streaming:
            self.flush()

    def _plain(self, value: object) -> None:
        self.response.write(f"{jsonout.marshal(value)}\n".encode("utf-8", "replace"))

    def put(self, value: object, *, newline: bool = False) -> None:
        frame = as_mapping(value)
        if not self._streams:
            self.response.headers["Content-Type"] = ["application/json"]
            self._plain(_message(self._id, frame))
            return
        if self._names_type:
            self.response.set_header("Content-Type", "text/event-stream")
        for event in self._events.of(frame):
            text = f"event: {event['type']}\ndata: {jsonout.marshal(event)}\n\n"
            self.response.write(text.encode("utf-8", "replace"))
            self.response.flush()


def _stop_reason(reason: object, *, called: bool) -> str:
    if called:
        return "tool_use"
    known = {"stop": "end_turn", "length": "max_tokens"}
    return known.get(as_text(reason), "stop_sequence" if reason else "")


def _count(frame: Frame, name: str) -> int:
    value = frame.get(name)
    return value if isinstance(value, int) else 0


def _message(identity: str, frame: Frame) -> dict[str, object]:
    message = as_mapping(frame.get("message"))
    content: list[dict[str, object]] = []
    if message.get("thinking"):
        content.append({"type": "thinking", "thinking": message["thinking"]})
    if message.get("content"):
        content.append({"type": "text", "text": message["content"]})
    for item in as_list(message.get("tool_calls")):
        content.append(_tool_use(as_mapping(item)))
    out: dict[str, object] = {"id": identity, "type": "message", "role": "assistant"}
    out |= {"model": as_text(frame.get("model")), "content": content or None}
    reason = _stop_reason(frame.get("done_reason"), called=bool(message.get("tool_calls")))
    if reason:
        out["stop_reason"] = reason
    out["usage"] = {
        "input_tokens": _count(frame, "prompt_eval_count"),
        "output_tokens": _count(frame, "eval_count"),
    }
    return out


def _tool_use(call: Frame) -> dict[str, object]:
    function = as_mapping(call.get("function"))
    out: dict[str, object] = {"type": "tool_use"}
    if call.get("id"):
        out["id"] = call["id"]
    if function.get("name"):
        out["name"] = function["name"]
    return {**out, "input": function.get("arguments") or jsonout.GoMap()}


class _Events:
    """``StreamConverter``: what has been opened, and what comes next."""

    def __init__(self, identity: str, model: str, estimate: int) -> None:
        self._id = identity
        self._model = model
        self._estimate = estimate
        self._started = False
        self._index = 0
        self._thinking = ""  # "", "open", "done"
        self._text_open = False
        self._sent: set[str] = set()

    def of(self, frame: Frame) -> list[dict[str, object]]:
        """The events for one native frame."""
        message = as_mapping(frame.get("message"))
        events: list[dict[str, object]] = []
        if not self._started:
            self._started = True
            events.append(self._start(frame))
        thinking, content = as_text(message.get("thinking")), as_text(message.get("content"))
        if thinking and self._thinking != "done":
            if not self._thinking:
                self._thinking = "open"
                events.append(self._open({"type": "thinking", "thinking": ""}))
            events.append(self._delta({"type": "thinking_delta", "thinking": thinking}))
        if content:
            self._close_thinking(events)
            if not self._text_open:
                self._text_open = True
                events.append(self._open({"type": "text", "text": ""}))
            events.append(self._delta({"type": "text_delta", "text": content}))
        for item in as_list(message.get("tool_calls")):
            self._tool(events, as_mapping(item))
        if frame.get("done"):
            self._end(events, frame)
        return events

    def _start(self, frame: Frame) -> dict[str, object]:
        usage = {"input_tokens": _count(frame, "prompt_eval_count") or self._estimate, "output_tokens": 0}
        message = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {"type": "message_start", "message": {**message, "content": [], "usage": usage}}

    def _open(self, block: Frame) -> dict[str, object]:
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Frame) -> dict[str, object]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> dict[str, object]:
        return {"type": "content_block_stop", "index": self._index}

    def _close_thinking(self, events: list[dict[str, object]]) -> None:
        if self._thinking == "open":
            self._thinking = "done"
            events.append(self._stop())
            self._index += 1

    def _tool(self, events: list[dict[str, object]], call: Frame) -> None:
        identity = as_text(call.get("id"))
        if identity in self._sent:
            return
        self._close_thinking(events)
        if self._text_open:
            events.append(self._stop())
            self._index += 1
            self._text_open = False
        block = _tool_use(call)
        arguments = jsonout.marshal(jsonout.as_go_map(block["input"]))
        events.append(self._open({**block, "input": jsonout.GoMap()}))
        events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        events.append(self._stop())
        self._sent.add(identity)
        self._index += 1

    def _end(self, events: list[dict[str, object]], frame: Frame) -> None:
        if self._text_open or self._thinking == "open":
            events.append(self._stop())
        reason = _stop_reason(frame.get("done_reason"), called=bool(self._sent))
        usage = {"input_tokens": _count(frame, "prompt_eval_count"), "output_tokens": _count(frame, "eval_count")}
        delta = {"stop_reason": reason} if reason else {}
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        events.append({"type": "message_stop"})


# -- requests


def _system(value: object) -> str:
    if isinstance(value, str):
        return value
    return "".join(
        as_text(as_mapping(block).get("text")) for block in as_list(value) if as_mapping(block).get("type") == "text"
    )


def _image(source: Frame) -> str:
    kind = as_text(source.get("type"))
    if kind != "base64":
        raise GoError(f"invalid image source type: {kind}. Only base64 images are supported.")
    try:
        return base64.b64encode(decode_base64(as_text(source.get("data")))).decode("ascii")
    except GoError as error:
        raise GoError(f"invalid base64 image data: {error}") from None


def _converted(message: Frame) -> list[Native]:
    role = as_text(message["role"]).lower()
    text, thinking = "", ""
    images: list[str] = []
    calls: list[Native] = []
    results: list[Native] = []
    for item in as_list(message["content"]):
        block = as_mapping(item)
        kind = block["type"]
        if kind == "text":
            text += as_text(block["text"])
        elif kind == "image":
            if block["source"] is None:
                raise GoError("invalid image source")
            images.append(_image(as_mapping(block["source"])))
        elif kind in ("tool_use", "server_tool_use"):
            calls.append(_call(block, strict=kind == "tool_use"))
        elif kind in ("tool_result", "web_search_tool_result"):
            content, pictures = _result(block["content"])
            results.append(native_message("tool", content, images=pictures, tool_call_id=block["tool_use_id"]))
        elif kind == "thinking" and block["thinking"] is not None:
            thinking = as_text(block["thinking"])
    out = results if role == "user" else []
    if text or images or calls or thinking:
        out = [*out, native_message(role, text, images=images, tool_calls=calls, thinking=thinking)]
    return out if role == "user" else [*out, *results]


def _call(block: Frame, *, strict: bool) -> Native:
    for name in ("id", "name"):
        if strict and not block[name]:
            raise GoError(f"tool_use block missing required '{name}' field")
    call: Native = {"id": block["id"]} if block["id"] else {}
    call["function"] = {"index": 0, "name": block["name"], "arguments": block["input"] or {}}
    return call


def _result(content: object) -> tuple[str, list[str]]:
    if isinstance(content, str):
        return content, []
    text = ""
    pictures: list[str] = []
    for item in as_list(content):
        block = as_mapping(item)
        if block.get("type") == "text":
            text += as_text(block.get("text"))
        elif block.get("type") == "image":
            if not isinstance(block.get("source"), Mapping):
                raise GoError("invalid tool_result image source")
            pictures.append(_image(as_mapping(block["source"])))
    return text, pictures


def _searches(tool: Frame) -> bool:
    return as_text(tool["type"]).startswith("web_search")


def _tool(tool: Frame) -> Native:
    if _searches(tool):
        query = {"type": "string", "description": "The search query to look up on the web"}
        parameters: object = {"type": "object", "required": ["query"], "properties": {"query": query}}
        about = "Search the web for current information. Use this to find up-to-date information about any topic."
        return {
            "type": "function",
            "function": {"name": "web_search", "description": about, "parameters": parameters},
        }
    schema = tool["input_schema"]
    parameters = TOOL_PARAMETERS.zero()
    if isinstance(schema, bytes) and schema:
        try:
            parameters = unmarshal(schema, TOOL_PARAMETERS)
        except GoError as error:
            raise GoError(f"invalid input_schema for tool {go_quote(as_text(tool['name']))}: {error}") from None
    function: Native = {"name": tool["name"]}
    if tool["description"]:
        function["description"] = tool["description"]
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _think(request: Frame) -> object:
    kind = as_mapping(request["thinking"]).get("type")
    if kind in ("enabled", "disabled"):
        return kind == "enabled"
    effort = as_text(as_mapping(request["output_config"]).get("effort")).strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in ("high", "medium", "low", "max") else None


def native_request(request: Frame) -> bytes:
    """The body of a native chat request.

    Raises:
        GoError: with Ollama's text.
    """
    system = _system(request["system"])
    messages: list[Native] = [native_message("system", system)] if system else []
    for message in as_list(request["messages"]):
        messages += _converted(as_mapping(message))
    options: Native = {"num_predict": request["max_tokens"]}
    for name in ("temperature", "top_p", "top_k"):
        if request[name] is not None:
            options[name] = request[name]
    if request["stop_sequences"]:
        options["stop"] = request["stop_sequences"]
    tools = [as_mapping(tool) for tool in as_list(request["tools"])]
    if any(_searches(tool) for tool in tools):
        tools = [tool for tool in tools if _searches(tool) or tool["name"] != "web_search"]
    native: Native = {"model": request["model"], "messages": messages, "stream": request["stream"]}
    if tools:
        native["tools"] = [_tool(tool) for tool in tools]
    native["options"] = jsonout.GoMap(options)
    think = _think(request)
    if think is not None:
        native["think"] = think
    return encoded(jsonout.marshal(native))


def estimated_tokens(request: Frame) -> int:
    """``EstimateInputTokens``: a quarter of the bytes."""
    total = _length(request["system"])
    for message in as_list(request["messages"]):
        total += len(as_text(as_mapping(message)["role"]).encode())
        total += sum(_length(block) for block in as_list(as_mapping(message)["content"]))
    for tool in as_list(request["tools"]):
        held = as_mapping(tool)
        total += len(as_text(held["name"]).encode()) + len(as_text(held["description"]).encode())
        total += len(held["input_schema"]) if isinstance(held["input_schema"], bytes) else 0
    tokens = total // 4
    return tokens or int(bool(request["messages"]) or request["system"] is not None)


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list):
        return sum(_length(item) for item in value)
    block = as_mapping(value)
    length = len(as_text(block.get("text")).encode()) + len(as_text(block.get("thinking")).encode())
    if block.get("type") in ("tool_use", "tool_result"):
        length += len(jsonout.marshal({key: item for key, item in block.items() if item}))
    return length


async def messages(call: Call) -> None:
    """POST /v1/messages."""
    await refuse_cloud_model(call)
    call.sink = _EarlySink(call.sink.response)
    request = await call.bind(MESSAGES, empty="EOF")
    if not request["model"]:
        raise Refusal(400, "model is required")
    limit = request["max_tokens"]
    if not isinstance(limit, int) or limit <= 0:
        raise Refusal(400, "max_tokens is required and must be positive")
    if not request["messages"]:
        raise Refusal(400, "messages is required")
    try:
        call.body = native_request(request)
    except GoError as error:
        raise Refusal(400, str(error)) from None
    call.relaxed_thinking = True
    if request["stream"]:
        call.sink.response.set_header("Content-Type", "text/event-stream")
        call.sink.response.set_header("Cache-Control", "no-cache")
        call.sink.response.set_header("Connection", "keep-alive")
    call.sink = MessagesSink(call, request, estimated_tokens(request))
    await chat.chat(call)

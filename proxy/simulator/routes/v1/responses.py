"""/v1/responses: the request (Ollama v0.24.0 ``openai/responses.go``, ``middleware/openai.go``)."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence

from proxy.simulator.api.requests import TOOL_PARAMETERS, read_arguments
from proxy.simulator.api.responses import RESPONSES
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonbind import unmarshal
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes import chat
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.v1.convert import Native, decode_image_url, encoded, native_message
from proxy.simulator.routes.v1.response_events import ResponseEvents, whole_response
from proxy.simulator.routes.v1.shape import OpenAISink, as_list, as_mapping, as_text, refuse_cloud_model

Frame = Mapping[str, object]


class ResponsesSink(OpenAISink):
    """Native chat frames to a response, or to its events."""

    def __init__(self, call: Call, request: Frame) -> None:
        super().__init__(call)
        self._request = request
        self._streams = request["stream"] is True
        self._ids = (f"resp_{random.randrange(999_999)}", f"msg_{random.randrange(999_999)}")  # noqa: S311
        self._events = ResponseEvents(*self._ids, request)

    def convert(self, value: Frame) -> None:
        if not self._streams:
            self.plain(whole_response(*self._ids, value, self._request))
            return
        self.response.set_header("Content-Type", "text/event-stream")
        for event in self._events.of(value):
            text = f"event: {event['type']}\ndata: {jsonout.marshal(event)}\n\n"
            self.response.write(text.encode("utf-8", "replace"))
            self.response.flush()


def _content(parts: Sequence[object]) -> tuple[str, list[str]]:
    text = ""
    pictures: list[str] = []
    for item in parts:
        part = as_mapping(item)
        if part["type"] in ("input_text", "output_text"):
            text += as_text(part["text"])
        elif part["type"] == "input_image":
            if part["image_url"]:
                data = decode_image_url(as_text(part["image_url"]))
                pictures.append(base64.b64encode(data).decode("ascii"))
        else:
            raise GoError("file inputs are not currently supported")
    return text, pictures


def _messages(request: Frame) -> list[Native]:
    given = as_mapping(request["input"])
    messages: list[Native] = []
    if request["instructions"]:
        messages.append(native_message("system", as_text(request["instructions"])))
    if given["text"]:
        messages.append(native_message("user", as_text(given["text"])))
    thinking = ""
    for entry in as_list(given["items"]):
        item = as_mapping(entry)
        if item["kind"] == "reasoning":
            thinking = as_text(item["encrypted_content"])
        elif item["kind"] == "message":
            text, pictures = _content(as_list(item["content"]))
            role = as_text(item["role"])
            held = thinking if role == "assistant" else ""
            thinking = "" if held else thinking
            messages.append(native_message(role, text, images=pictures, thinking=held))
        elif item["kind"] == "function_call":
            _add_call(messages, item, thinking)
            thinking = ""
        else:
            text, pictures = as_text(item["output"]), []
            if item["items"]:
                text, pictures = _content(as_list(item["items"]))
            messages.append(native_message("tool", text, images=pictures, tool_call_id=item["call_id"]))
    if thinking:
        messages.append(native_message("assistant", thinking=thinking))
    return messages


def _add_call(messages: list[Native], item: Frame, thinking: str) -> None:
    arguments: object = {}
    if item["arguments"]:
        try:
            arguments = read_arguments(as_text(item["arguments"]).encode())
        except GoError as error:
            raise GoError(f"failed to parse function call arguments: {error}") from None
    call: Native = {"id": item["call_id"]} if item["call_id"] else {}
    call["function"] = {"index": 0, "name": item["name"], "arguments": arguments}
    if messages and messages[-1]["role"] == "assistant":
        last = messages[-1]
        calls = [*as_list(last.get("tool_calls")), call]
        messages[-1] = native_message(
            "assistant",
            as_text(last["content"]),
            thinking=thinking or last.get("thinking"),
            images=last.get("images"),
            tool_calls=calls,
        )
    else:
        messages.append(native_message("assistant", thinking=thinking, tool_calls=[call]))


def _tool(tool: Frame) -> Native:
    parameters = TOOL_PARAMETERS.zero()
    if tool["parameters"] is not None:
        try:
            parameters = unmarshal(encoded(jsonout.marshal(tool["parameters"])), TOOL_PARAMETERS)
        except GoError as error:
            raise GoError(f"failed to unmarshal tool parameters: {error}") from None
    function: Native = {"name": tool["name"]}
    if tool["description"]:
        function["description"] = tool["description"]
    return {"type": tool["type"], "function": {**function, "parameters": parameters}}


def native_request(request: Frame) -> bytes:
    """The body of a native chat request.

    Raises:
        GoError: with Ollama's text.
    """
    native: Native = {"model": request["model"], "messages": _messages(request) or None}
    options: Native = {"temperature": 1.0 if request["temperature"] is None else request["temperature"]}
    if request["top_p"] is not None:
        options["top_p"] = request["top_p"]
    if request["max_output_tokens"] is not None:
        options["num_predict"] = request["max_output_tokens"]
    effort = as_text(as_mapping(request["reasoning"])["effort"])
    if effort and effort not in ("none", "low", "medium", "high", "max"):
        raise GoError(
            f'invalid reasoning value: {go_quote(effort)} (must be "high", "medium", "low", "max", or "none")'
        )
    native["stream"] = request["stream"] is True
    form = as_mapping(as_mapping(request["text"]).get("format"))
    schema = form.get("schema")
    if form.get("type") == "json_schema" and isinstance(schema, bytes):
        native["format"] = jsonout.RawJson(schema.decode("utf-8", "replace"))
    tools = [_tool(as_mapping(tool)) for tool in as_list(request["tools"])]
    if tools:
        native["tools"] = tools
    native["options"] = jsonout.GoMap(options)
    if effort:
        native["think"] = False if effort == "none" else effort
    return encoded(jsonout.marshal(native))


async def responses(call: Call) -> None:
    """POST /v1/responses."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(RESPONSES, empty="EOF")
    try:
        call.body = native_request(request)
    except GoError as error:
        raise Refusal(400, str(error)) from None
    if request["stream"] is True:
        response = call.sink.response
        response.set_header("Content-Type", "text/event-stream")
        response.set_header("Cache-Control", "no-cache")
        response.set_header("Connection", "keep-alive")
    call.sink = ResponsesSink(call, request)
    await chat.chat(call)

"""/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models.

Source: Ollama v0.24.0 ``middleware/openai.go``, ``openai/openai.go``.
"""

from __future__ import annotations

import base64
import random
import struct
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from proxy.simulator.api.v1 import CHAT_COMPLETION, COMPLETION, EMBEDDING
from proxy.simulator.engine.names import parse_name, parse_reference
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes import chat, embed, generate, library
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.lookup import refuse_cloud
from proxy.simulator.routes.v1.convert import chat_request, completion_request, encoded
from proxy.simulator.routes.v1.shape import (
    OpenAISink,
    as_list,
    as_mapping,
    as_text,
    refuse_cloud_model,
)

Frame = Mapping[str, object]


class ChatSink(OpenAISink):
    """Native chat frames to chat completions."""

    def __init__(self, call: Call, request: Frame) -> None:
        super().__init__(call)
        self._streams = request["stream"] is True
        self._usage = _wants_usage(request)
        self._id = f"chatcmpl-{random.randrange(999)}"  # noqa: S311 - as Ollama numbers them
        self._called = False

    def convert(self, value: Frame) -> None:
        if not self._streams:
            self.plain(_chat_completion(self._id, value))
            return
        self.response.set_header("Content-Type", "text/event-stream")
        chunks = self._chunks(value)
        for chunk in chunks:
            self._called = self._called or _has_calls(chunk)
            self.event(chunk)
        if value.get("done"):
            if self._usage:
                last = {name: part for name, part in chunks[-1].items() if name != "usage"}
                self.event({**last, "choices": [], "usage": _usage(value)})
            self.response.write(b"data: [DONE]\n\n")

    def _chunks(self, value: Frame) -> list[dict[str, object]]:
        message = as_mapping(value.get("message"))
        whole = self._chunk(value, message)
        if not (message.get("thinking") and (message.get("content") or message.get("tool_calls"))):
            return [whole]
        thought = self._chunk({**value, "done_reason": ""}, {"thinking": message["thinking"]})
        rest = {name: part for name, part in message.items() if name != "thinking"}
        return [thought, self._chunk({**value, "logprobs": None}, rest)]

    def _chunk(self, value: Frame, message: Frame) -> dict[str, object]:
        calls = tool_calls(message)
        reason: object = value.get("done_reason") or None
        if reason and (calls or self._called):
            reason = "tool_calls"
        choice = {"index": 0, "delta": _message("assistant", message, calls), "finish_reason": reason}
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": as_text(value.get("model")),
            "system_fingerprint": "fp_ollama",
            "choices": [_with_logprobs(choice, value)],
        }


class CompletionSink(OpenAISink):
    """Native generate frames to completions."""

    def __init__(self, call: Call, request: Frame) -> None:
        super().__init__(call)
        self._streams = request["stream"] is True
        self._usage = _wants_usage(request)
        self._id = f"cmpl-{random.randrange(999)}"  # noqa: S311 - as Ollama numbers them

    def convert(self, value: Frame) -> None:
        choice = {"text": as_text(value.get("response")), "index": 0, "finish_reason": value.get("done_reason") or None}
        head = {"id": self._id, "object": "text_completion"}
        if not self._streams:
            named = {"created": _unix(value.get("created_at")), "model": as_text(value.get("model"))}
            rest = {"system_fingerprint": "fp_ollama", "choices": [choice], "usage": _usage(value)}
            self.plain({**head, **named, **rest})
            return
        self.response.set_header("Content-Type", "text/event-stream")
        chunk: dict[str, object] = {**head, "created": int(time.time()), "choices": [choice]}
        chunk |= {"model": as_text(value.get("model")), "system_fingerprint": "fp_ollama"}
        empty = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self.event({**chunk, "usage": empty} if self._usage else chunk)
        if value.get("done"):
            if self._usage:
                self.event({**chunk, "choices": [], "usage": _usage(value)})
            self.response.write(b"data: [DONE]\n\n")


class EmbeddingSink(OpenAISink):
    """Native embeddings to an embedding list."""

    def __init__(self, call: Call, request: Frame) -> None:
        super().__init__(call)
        self._model = as_text(request["model"])
        self._packed = as_text(request["encoding_format"]).lower() == "base64"

    def convert(self, value: Frame) -> None:
        data = [
            {"object": "embedding", "embedding": _packed(vector) if self._packed else vector, "index": index}
            for index, vector in enumerate(as_list(value.get("embeddings")))
        ]
        tokens = value.get("prompt_eval_count", 0)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self.plain({"object": "list", "data": data or None, "model": self._model, "usage": usage})


class ListSink(OpenAISink):
    """Native tags to a model list."""

    def convert(self, value: Frame) -> None:
        data = [_model(as_text(as_mapping(item)["name"]), as_mapping(item)) for item in as_list(value.get("models"))]
        self.plain({"object": "list", "data": data or None})


class ModelSink(OpenAISink):
    """A native show to one model."""

    def convert(self, value: Frame) -> None:
        self.plain(_model(self.call.params["model"], value))


def _model(name: str, entry: Frame) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": _unix(entry.get("modified_at")),
        "owned_by": parse_name(name).namespace,
    }


def _packed(vector: object) -> str:
    numbers = [number for number in as_list(vector) if isinstance(number, float)]
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode("ascii")


def _unix(text: object) -> int:
    """The second of a native time; Go's zero time where there is none."""
    if not isinstance(text, str):
        return -62_135_596_800
    return int(datetime.fromisoformat(text.partition(".")[0].rstrip("Z") + "+00:00").timestamp())


def _wants_usage(request: Frame) -> bool:
    return as_mapping(request["stream_options"]).get("include_usage") is True


def _usage(value: Frame) -> dict[str, object]:
    prompt, answer = value.get("prompt_eval_count", 0), value.get("eval_count", 0)
    total = (prompt if isinstance(prompt, int) else 0) + (answer if isinstance(answer, int) else 0)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total}


def tool_calls(message: Frame) -> list[dict[str, object]]:
    """Native tool calls in OpenAI's shape."""
    out = []
    for item in as_list(message.get("tool_calls")):
        call, function = as_mapping(item), as_mapping(as_mapping(item).get("function"))
        arguments = jsonout.marshal(jsonout.as_go_map(function.get("arguments") or jsonout.GoMap()))
        out.append(
            {
                "id": as_text(call.get("id")),
                "index": function.get("index", 0),
                "type": "function",
                "function": {"name": as_text(function.get("name")), "arguments": arguments},
            }
        )
    return out


def _message(role: str, message: Frame, calls: Sequence[object]) -> dict[str, object]:
    out: dict[str, object] = {"role": role, "content": as_text(message.get("content"))}
    if message.get("thinking"):
        out["reasoning"] = message["thinking"]
    if calls:
        out["tool_calls"] = list(calls)
    return out


def _has_calls(chunk: Frame) -> bool:
    return any(as_mapping(as_mapping(choice)["delta"]).get("tool_calls") for choice in as_list(chunk["choices"]))


def _with_logprobs(choice: dict[str, object], value: Frame) -> dict[str, object]:
    if value.get("logprobs"):
        choice["logprobs"] = {"content": value["logprobs"]}
    return choice


def _chat_completion(identity: str, value: Frame) -> dict[str, object]:
    message = as_mapping(value.get("message"))
    calls = tool_calls(message)
    reason = "tool_calls" if calls else value.get("done_reason") or None
    choice = {"index": 0, "message": _message(as_text(message.get("role")), message, calls), "finish_reason": reason}
    out: dict[str, object] = {
        "id": identity,
        "object": "chat.completion",
        "created": _unix(value.get("created_at")),
        "model": as_text(value.get("model")),
        "system_fingerprint": "fp_ollama",
        "choices": [_with_logprobs(choice, value)],
        "usage": _usage(value),
    }
    if value.get("_debug_info"):
        out["_debug_info"] = value["_debug_info"]
    return out


# -- handlers


async def chat_completions(call: Call) -> None:
    """POST /v1/chat/completions."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(CHAT_COMPLETION, empty="EOF")
    if not request["messages"]:
        raise Refusal(400, "[] is too short - 'messages'")
    try:
        call.body = chat_request(request)
    except GoError as error:
        raise Refusal(400, str(error)) from None
    call.sink = ChatSink(call, request)
    await chat.chat(call)


async def completions(call: Call) -> None:
    """POST /v1/completions."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(COMPLETION, empty="EOF")
    try:
        call.body = completion_request(request)
    except GoError as error:
        raise Refusal(400, str(error)) from None
    call.sink = CompletionSink(call, request)
    await generate.generate(call)


async def embeddings(call: Call) -> None:
    """POST /v1/embeddings."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(EMBEDDING, empty="EOF")
    form = as_text(request["encoding_format"])
    if form and form.lower() not in ("float", "base64"):
        raise Refusal(400, f"Invalid value for 'encoding_format' = {form}. Supported values: ['float', 'base64'].")
    given = [""] if request["input"] == "" else request["input"]
    if given is None or given == []:
        raise Refusal(400, "invalid input")
    native = {"model": request["model"], "input": jsonout.as_go_map(given), "options": None}
    if request["dimensions"]:
        native["dimensions"] = request["dimensions"]
    call.body = encoded(jsonout.marshal(native))
    call.sink = EmbeddingSink(call, request)
    await embed.embed(call)


async def models(call: Call) -> None:
    """GET /v1/models."""
    call.sink = ListSink(call)
    await library.tags(call)


async def model(call: Call) -> None:
    """GET /v1/models/:model."""
    name = call.params["model"]
    if is_cloud(name):
        raise refuse_cloud(call, "remote model details are unavailable")
    call.body = encoded(jsonout.marshal({"name": name}))
    call.sink = ModelSink(call)
    await library.show(call)


def is_cloud(name: str) -> bool:
    """Whether a name says that its model runs in the cloud."""
    try:
        return parse_reference(name).source == "cloud"
    except GoError:
        return False

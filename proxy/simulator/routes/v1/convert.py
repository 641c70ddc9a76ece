"""OpenAI requests to native ones.

Source: Ollama v0.24.0 ``openai/openai.go`` (``FromChatRequest``, ``FromCompleteRequest``).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from proxy.simulator.api.requests import read_arguments
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonbind import decode_base64
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes.v1.shape import as_list, as_mapping, as_text

Native = dict[str, object]
_EFFORTS = ("high", "medium", "low", "max", "none")


def encoded(text: str) -> bytes:
    """A rewritten body."""
    return text.encode("utf-8", "surrogatepass")


def go_type(value: object) -> str:
    """``%T`` of a value that JSON was read into."""
    names = {bool: "bool", float: "float64", str: "string", list: "[]interface {}"}
    if value is None:
        return "<nil>"
    return names.get(type(value), "map[string]interface {}")


def chat_request(request: Mapping[str, object]) -> bytes:
    """The body of a native chat request.

    Raises:
        GoError: with Ollama's text.
    """
    messages: list[Native] = []
    given = [as_mapping(item) for item in as_list(request["messages"])]
    for message in given:
        _add_messages(messages, message, given)
    options = _options(request, strict_stop=False)
    for name in ("frequency_penalty", "presence_penalty"):
        if request[name] is not None:
            options[name] = request[name]
    options["top_p"] = 1.0 if request["top_p"] is None else request["top_p"]
    think = _think(request)
    native: Native = {"model": request["model"], "messages": messages, "stream": request["stream"]}
    form = _form(request)
    if form:
        native["format"] = jsonout.RawJson(form)
    if request["tools"]:
        native["tools"] = request["tools"]
    native["options"] = jsonout.GoMap(options)
    if think is not None:
        native["think"] = think
    if request["_debug_render_only"]:
        native["_debug_render_only"] = True
    if request["logprobs"]:
        native["logprobs"] = True
    if request["top_logprobs"]:
        native["top_logprobs"] = request["top_logprobs"]
    return encoded(jsonout.marshal(native))


def _options(request: Mapping[str, object], *, strict_stop: bool) -> Native:
    options: Native = {}
    stop = request["stop"]
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        if strict_stop:
            for item in stop:
                if not isinstance(item, str):
                    raise GoError(f"invalid type for 'stop' field: {go_type(item)}")
        options["stop"] = [item for item in stop if isinstance(item, str)] or None
    for name, native in (("max_tokens", "num_predict"), ("seed", "seed")):
        if request[name] is not None:
            options[native] = request[name]
    options["temperature"] = 1.0 if request["temperature"] is None else request["temperature"]
    return options


def _think(request: Mapping[str, object]) -> object:
    reasoning = request["reasoning"]
    effort = as_text(as_mapping(reasoning).get("effort")) if reasoning is not None else ""
    if reasoning is None:
        effort = as_text(request["reasoning_effort"])
    if not effort:
        return None
    if effort not in _EFFORTS:
        raise GoError(f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", "max", or "none")')
    return False if effort == "none" else effort


def _form(request: Mapping[str, object]) -> str:
    wanted = as_mapping(request["response_format"])
    kind = as_text(wanted.get("type")).strip().lower()
    if kind == "json_object":
        return '"json"'
    schema = as_mapping(wanted.get("json_schema")).get("schema") if kind == "json_schema" else None
    return schema.decode("utf-8", "replace") if isinstance(schema, bytes) else ""


def _calls(message: Mapping[str, object]) -> list[Native]:
    out = []
    for item in as_list(message["tool_calls"]):
        function = as_mapping(as_mapping(item)["function"])
        try:
            arguments = read_arguments(as_text(function["arguments"]).encode())
        except GoError:
            raise GoError("invalid tool call arguments") from None
        call: Native = {"id": as_mapping(item)["id"]} if as_mapping(item)["id"] else {}
        call["function"] = {"index": 0, "name": function["name"], "arguments": arguments}
        out.append(call)
    return out


def native_message(role: str, content: str = "", **more: object) -> Native:
    """A native message without its empty fields."""
    out: Native = {"role": role, "content": content}
    for name in ("thinking", "images", "tool_calls", "tool_name", "tool_call_id"):
        if more.get(name):
            out[name] = more[name]
    return out


def _add_messages(
    messages: list[Native], message: Mapping[str, object], everything: list[Mapping[str, object]]
) -> None:
    role = as_text(message["role"])
    extra: Native = {"thinking": message["reasoning"], "tool_call_id": message["tool_call_id"]}
    if role.lower() == "tool":
        extra["tool_name"] = message["name"] or _name_of_call(everything, as_text(message["tool_call_id"]))
    content = message["content"]
    if isinstance(content, str):
        messages.append(native_message(role, content, tool_calls=_calls(message), **extra))
        return
    if isinstance(content, list):
        for part in content:
            messages.append(_part(role, part))
        if messages and message["tool_calls"]:
            last = messages[-1]
            messages[-1] = native_message(
                as_text(last["role"]),
                as_text(last["content"]),
                images=last.get("images"),
                tool_calls=_calls(message),
                **extra,
            )
        return
    if message["tool_calls"] is None:
        raise GoError(f"invalid message content type: {go_type(content)}")
    extra.pop("tool_name", None)
    messages.append(native_message(role, "", tool_calls=_calls(message), **extra))


def _name_of_call(everything: list[Mapping[str, object]], identity: str) -> str:
    if not identity:
        return ""
    for message in reversed(everything):
        for item in as_list(message["tool_calls"]):
            if as_mapping(item)["id"] == identity:
                return as_text(as_mapping(as_mapping(item)["function"])["name"])
    return ""


def _part(role: str, part: object) -> Native:
    bad = GoError("invalid message format")
    if not isinstance(part, Mapping):
        raise bad
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise bad
        return native_message(role, as_text(part["text"]))
    if kind == "image_url":
        held = part.get("image_url")
        url = held.get("url") if isinstance(held, Mapping) else held
        if not isinstance(url, str):
            raise bad
        return native_message(role, images=[_packed(decode_image_url(url))])
    if kind == "input_audio":
        return _audio(role, part.get("input_audio"))
    raise bad


def _audio(role: str, held: object) -> Native:
    if not isinstance(held, Mapping):
        raise GoError("invalid input_audio format")
    data = held.get("data")
    if not isinstance(data, str):
        raise GoError("invalid input_audio format: missing data")
    try:
        return native_message(role, images=[_packed(decode_base64(data))])
    except GoError as error:
        raise GoError(f"invalid input_audio base64 data: {error}") from None


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode_image_url(url: str) -> bytes:
    """The bytes of a data URL.

    Raises:
        GoError: it is another kind of URL, or not base64.
    """
    if url.startswith(("http://", "https://")):
        raise GoError("image URLs are not currently supported, please use base64 encoded data instead")
    for kind in ("data:;base64,", *(f"data:image/{name};base64," for name in ("jpeg", "jpg", "png", "webp"))):
        if url.startswith(kind):
            try:
                return decode_base64(url[len(kind) :])
            except GoError:
                break
    raise GoError("invalid image input")


def completion_request(request: Mapping[str, object]) -> bytes:
    """The body of a native generate request.

    Raises:
        GoError: with Ollama's text.
    """
    options = _options(request, strict_stop=True)
    options["frequency_penalty"] = request["frequency_penalty"]
    options["presence_penalty"] = request["presence_penalty"]
    options["top_p"] = request["top_p"] or 1.0
    native: Native = {
        "model": request["model"],
        "prompt": request["prompt"],
        "suffix": request["suffix"],
        "system": "",
        "template": "",
        "stream": request["stream"],
        "options": jsonout.GoMap(options),
    }
    if request["_debug_render_only"]:
        native["_debug_render_only"] = True
    logprobs = request["logprobs"]
    if isinstance(logprobs, int) and logprobs > 0:
        native |= {"logprobs": True, "top_logprobs": logprobs}
    return encoded(jsonout.marshal(native))

"""/v1/responses: the answer and its events (Ollama v0.24.0 ``openai/responses.go``).

In the stream Ollama builds its objects as maps, so they are sorted by name; the whole answer is a struct.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import datetime

from proxy.simulator.golang.jsonout import GoMap, RawJson, marshal
from proxy.simulator.routes.v1.shape import as_list, as_mapping, as_text

Frame = Mapping[str, object]


def _calls(message: Frame) -> list[tuple[str, str, str]]:
    """Id, name and arguments of every tool call."""
    out = []
    for item in as_list(message.get("tool_calls")):
        function = as_mapping(as_mapping(item).get("function"))
        arguments = marshal(function.get("arguments") or GoMap())
        out.append((as_text(as_mapping(item).get("id")), as_text(function.get("name")), arguments))
    return out


def _count(frame: Frame, name: str) -> int:
    value = frame.get(name)
    return value if isinstance(value, int) else 0


def _usage(frame: Frame) -> dict[str, object]:
    given, made = _count(frame, "prompt_eval_count"), _count(frame, "eval_count")
    return {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _format(request: Frame) -> dict[str, object]:
    form = as_mapping(as_mapping(request["text"]).get("format"))
    if not form:
        return {"type": "text"}
    out: dict[str, object] = {"type": form["type"]}
    if form["name"]:
        out["name"] = form["name"]
    if isinstance(form["schema"], bytes):
        out["schema"] = RawJson(form["schema"].decode("utf-8", "replace"))
    if form["strict"] is not None:
        out["strict"] = form["strict"]
    return out


def _tools(request: Frame) -> list[dict[str, object]]:
    return [dict(as_mapping(tool)) for tool in as_list(request["tools"])]


def _number(value: object) -> object:
    return 1.0 if value is None else value


def whole_response(identity: str, item_id: str, frame: Frame, request: Frame) -> dict[str, object]:
    """The answer without streaming."""
    message = as_mapping(frame.get("message"))
    output: list[dict[str, object]] = []
    if message.get("thinking"):
        summary = [{"type": "summary_text", "text": message["thinking"]}]
        thought = {"id": f"rs_{identity}", "type": "reasoning", "summary": summary}
        output.append({**thought, "encrypted_content": message["thinking"]})
    calls = _calls(message)
    for index, (call_id, name, arguments) in enumerate(calls):
        item: dict[str, object] = {"id": f"fc_{identity}_{index}", "type": "function_call", "status": "completed"}
        held = {"call_id": call_id, "name": name, "arguments": arguments}
        output.append({**item, **{key: value for key, value in held.items() if value}})
    if not calls:
        part = {"type": "output_text", "text": as_text(message.get("content")), "annotations": [], "logprobs": []}
        item = {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        output.append(item)
    created = as_text(frame.get("created_at")).partition(".")[0].rstrip("Z")
    reasoning = {key: value for key, value in as_mapping(request["reasoning"]).items() if value}
    reasoning.pop("generate_summary", None)
    return {
        "id": identity,
        "object": "response",
        "created_at": int(datetime.fromisoformat(f"{created}+00:00").timestamp()) if created else -62_135_596_800,
        "completed_at": int(time.time()),
        "status": "completed",
        "incomplete_details": None,
        "model": request["model"],
        "previous_response_id": None,
        "instructions": request["instructions"] or None,
        "output": output,
        "error": None,
        "tools": _tools(request),
        "tool_choice": "auto",
        "truncation": "disabled" if request["truncation"] is None else request["truncation"],
        "parallel_tool_calls": True,
        "text": {"format": _format(request)},
        "top_p": _number(request["top_p"]),
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": _number(request["temperature"]),
        "reasoning": reasoning or None,
        "usage": _usage(frame),
        "max_output_tokens": request["max_output_tokens"],
        "max_tool_calls": None,
        "store": False,
        "background": request["background"],
        "service_tier": "default",
        "metadata": GoMap(),
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


class ResponseEvents:
    """``ResponsesStreamConverter``: the events of one streamed answer."""

    def __init__(self, identity: str, item_id: str, request: Frame) -> None:
        self._id = identity
        self._item = item_id
        self._request = request
        self._number = 0
        self._started = False
        self._index = 0
        self._text: str | None = None
        self._thought: str | None = None
        self._thought_done = False
        self._thought_id = ""
        self._call_items: list[GoMap] = []

    def of(self, frame: Frame) -> list[GoMap]:
        """The events for one native frame."""
        message = as_mapping(frame.get("message"))
        events: list[GoMap] = []
        if not self._started:
            self._started = True
            for kind in ("response.created", "response.in_progress"):
                events.append(self._event(kind, response=self._object("in_progress", [], None)))
        if message.get("thinking"):
            self._think(events, as_text(message["thinking"]))
        calls = _calls(message)
        if calls:
            self._finish_thought(events)
            self._add_calls(events, calls)
        elif not self._call_items and message.get("content"):
            self._finish_thought(events)
            self._write(events, as_text(message["content"]))
        if frame.get("done"):
            self._complete(events, frame)
        return events

    def _event(self, kind: str, **data: object) -> GoMap:
        event = GoMap(data)
        event["type"] = kind
        event["sequence_number"] = self._number
        self._number += 1
        return event

    def _object(self, status: str, output: object, usage: object) -> GoMap:
        request = self._request
        asked = as_mapping(request["reasoning"])
        reasoning = None
        if asked["effort"] or asked["summary"]:
            reasoning = GoMap({"effort": asked["effort"] or None, "summary": asked["summary"] or None})
        return GoMap(
            {
                "id": self._id,
                "object": "response",
                "created_at": int(time.time()),
                "completed_at": None,
                "status": status,
                "incomplete_details": None,
                "model": request["model"],
                "previous_response_id": None,
                "instructions": request["instructions"] or None,
                "output": output,
                "error": None,
                "tools": [GoMap(tool) for tool in _tools(request)],
                "tool_choice": "auto",
                "truncation": "disabled" if request["truncation"] is None else request["truncation"],
                "parallel_tool_calls": True,
                "text": GoMap({"format": GoMap(_format(request))}),
                "top_p": _number(request["top_p"]),
                "presence_penalty": 0,
                "frequency_penalty": 0,
                "top_logprobs": 0,
                "temperature": _number(request["temperature"]),
                "reasoning": reasoning,
                "usage": usage,
                "max_output_tokens": request["max_output_tokens"],
                "max_tool_calls": None,
                "store": False,
                "background": request["background"],
                "service_tier": "default",
                "metadata": GoMap(),
                "safety_identifier": None,
                "prompt_cache_key": None,
            }
        )

    def _think(self, events: list[GoMap], text: str) -> None:
        if self._thought is None:
            self._thought = ""
            self._thought_id = f"rs_{random.randrange(999_999)}"  # noqa: S311 - as Ollama numbers them
            item = GoMap({"id": self._thought_id, "type": "reasoning", "summary": []})
            events.append(self._event("response.output_item.added", output_index=self._index, item=item))
        self._thought += text
        where = {"item_id": self._thought_id, "output_index": self._index, "summary_index": 0}
        events.append(self._event("response.reasoning_summary_text.delta", **where, delta=text))

    def _thought_item(self) -> GoMap:
        summary = [GoMap({"type": "summary_text", "text": self._thought})]
        item = {"id": self._thought_id, "type": "reasoning", "summary": summary}
        return GoMap({**item, "encrypted_content": self._thought})

    def _finish_thought(self, events: list[GoMap]) -> None:
        if self._thought is None or self._thought_done:
            return
        self._thought_done = True
        where = {"item_id": self._thought_id, "output_index": self._index, "summary_index": 0}
        events.append(self._event("response.reasoning_summary_text.done", **where, text=self._thought))
        events.append(self._event("response.output_item.done", output_index=self._index, item=self._thought_item()))
        self._index += 1

    def _add_calls(self, events: list[GoMap], calls: list[tuple[str, str, str]]) -> None:
        for offset, (call_id, name, arguments) in enumerate(calls):
            identity = f"fc_{random.randrange(999_999)}_{offset}"  # noqa: S311 - as Ollama numbers them
            index = self._index + offset
            item = GoMap({"id": identity, "type": "function_call", "status": "completed", "call_id": call_id})
            item |= {"name": name, "arguments": arguments}
            self._call_items.append(item)
            begun = GoMap({**item, "status": "in_progress", "arguments": ""})
            events.append(self._event("response.output_item.added", output_index=index, item=begun))
            where = {"item_id": identity, "output_index": index}
            if arguments:
                events.append(self._event("response.function_call_arguments.delta", **where, delta=arguments))
            events.append(self._event("response.function_call_arguments.done", **where, arguments=arguments))
            events.append(self._event("response.output_item.done", output_index=index, item=GoMap(item)))

    def _part(self) -> GoMap:
        return GoMap({"type": "output_text", "text": self._text, "annotations": [], "logprobs": []})

    def _message_item(self, status: str, content: list[GoMap]) -> GoMap:
        item = {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}
        return GoMap(item)

    def _write(self, events: list[GoMap], text: str) -> None:
        where = {"item_id": self._item, "output_index": self._index, "content_index": 0}
        if self._text is None:
            self._text = ""
            item = self._message_item("in_progress", [])
            events.append(self._event("response.output_item.added", output_index=self._index, item=item))
            events.append(self._event("response.content_part.added", **where, part=self._part()))
        self._text += text
        events.append(self._event("response.output_text.delta", **where, delta=text, logprobs=[]))

    def _complete(self, events: list[GoMap], frame: Frame) -> None:
        self._finish_thought(events)
        where = {"item_id": self._item, "output_index": self._index, "content_index": 0}
        message = self._message_item("completed", [self._part()])
        if not self._call_items and self._text is not None:
            events.append(self._event("response.output_text.done", **where, text=self._text, logprobs=[]))
            events.append(self._event("response.content_part.done", **where, part=self._part()))
            events.append(self._event("response.output_item.done", output_index=self._index, item=message))
        output: list[GoMap] = [self._thought_item()] if self._thought is not None else []
        if self._call_items:
            output += self._call_items
        elif self._text is not None:
            output.append(message)
        usage = GoMap({key: GoMap(value) if isinstance(value, dict) else value for key, value in _usage(frame).items()})
        response = self._object("completed", output or None, usage)
        response["completed_at"] = int(time.time())
        events.append(self._event("response.completed", response=response))

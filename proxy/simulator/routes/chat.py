"""POST /api/chat (Ollama v0.24.0 ``server/routes.go``, ``ChatHandler``)."""

from __future__ import annotations

import random
import string
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from proxy.simulator.api.requests import CHAT
from proxy.simulator.engine.render import Message, Prompt, Thinking, Values, chat_prompt
from proxy.simulator.engine.texts import Ask
from proxy.simulator.engine.thoughts import ThinkingParser
from proxy.simulator.engine.toolcalls import ToolCall, ToolParser
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes import images
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import (
    Clocks,
    Wish,
    check_top_logprobs,
    completion,
    created_at,
    failure,
    list_field,
    options_field,
    text_field,
    thinking_of,
)
from proxy.simulator.routes.lookup import Scheduled, find_model, reference_or_refuse, scheduled

if TYPE_CHECKING:
    from proxy.simulator.engine.model import Model
    from proxy.simulator.engine.runner import Piece

Request = Mapping[str, object]
Frame = dict[str, object]
_GO_NAMES = {
    "role": "Role",
    "content": "Content",
    "thinking": "Thinking",
    "images": "Images",
    "tool_calls": "ToolCalls",
    "tool_name": "ToolName",
    "tool_call_id": "ToolCallID",
}


async def chat(call: Call) -> None:
    """Answer a chat request: unload, load, render, or generate."""
    clocks = Clocks(time.monotonic_ns())
    request = await call.bind(CHAT)
    check_top_logprobs(request)
    raw_name = text_field(request, "model")
    call.model_name = raw_name
    model = find_model(call, reference_or_refuse(raw_name, 400, "model is required"), raw_name)
    messages = [_go_message(item) for item in list_field(request, "messages")]
    if not messages and request["keep_alive"] == 0 and request["keep_alive"] is not None:
        call.state.scheduler.expire(model)
        call.sink.json(200, _bare(call, "unload"))
        return
    if model.is_remote:
        images.refuse_remote(call, model)
    tools = [tool for tool in list_field(request, "tools") if isinstance(tool, Mapping)]
    wanted = ["completion"] + (["tools"] if tools else [])
    think = thinking_of(call, wanted, model.capabilities(), request["think"])
    hold = scheduled(call, model, wanted, options_field(request), request["keep_alive"], verb="chat")
    async with hold as held:
        clocks.loaded_ns = time.monotonic_ns()
        if not messages:
            call.sink.json(200, _bare(call, "load"))
            return
        values = Values(_conversation(model, messages), tools if request["tools"] is not None else None, think=think)
        await _answer(call, held, request, values, clocks)


def _go_message(message: object) -> Message:
    assert isinstance(message, Mapping)  # noqa: S101 - the schema says so
    return {_GO_NAMES[name]: value for name, value in message.items()}


def _bare(call: Call, reason: str) -> Frame:
    return {
        "model": call.model_name,
        "created_at": created_at(),
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
    }


def _conversation(model: Model, messages: Sequence[Message]) -> list[Message]:
    """The model's own messages and system text in front."""
    whole = [*model.messages, *messages]
    if messages[0]["Role"] != "system" and model.system:
        whole = [{"Role": "system", "Content": model.system}, *whole]
    return _without_thinking(model, whole)


def _without_thinking(model: Model, messages: list[Message]) -> list[Message]:
    """``filterThinkTags``: qwen3 and deepseek-r1 lose the thinking in earlier answers."""
    if model.family != "qwen3" and model.name.model != "deepseek-r1":
        return messages
    last_user = max((index for index, message in enumerate(messages) if message["Role"] == "user"), default=-1)
    out = []
    for index, message in enumerate(messages):
        if message["Role"] == "assistant" and index < last_user:
            _, content = ThinkingParser("<think>", "</think>").add(str(message.get("Content") or ""))
            out.append({**message, "Content": content})
        else:
            out.append(message)
    return out


def render(held: Scheduled, request: Request, values: Values) -> Prompt:
    """The prompt for a conversation.

    Raises:
        GoError
    """
    return chat_prompt(
        held.model,
        lambda text: len(held.runner.tokenizer.encode(text)),
        held.options.num_ctx,
        values,
        truncate=request["truncate"] is not False,
    )


async def _answer(call: Call, held: Scheduled, request: Request, values: Values, clocks: Clocks) -> None:
    try:
        rendered = render(held, request, values)
    except GoError as error:
        raise Refusal(500, str(error)) from None
    if request["_debug_render_only"]:
        info: Frame = {"rendered_template": rendered.text}
        if rendered.images:
            info["image_count"] = rendered.images
        call.sink.json(
            200,
            {
                "model": call.model_name,
                "created_at": created_at(),
                "message": {"role": "", "content": ""},
                "done": False,
                "_debug_info": info,
            },
        )
        return
    stream = _Stream(call, held, request, values, rendered.text, clocks)
    if request["stream"] is False:
        call.sink.json(200, await _joined(stream.frames(), with_tools=bool(values.tools)))
        return
    call.sink.begin_stream()
    try:
        async with aclosing(stream.frames()) as frames:
            async for frame in frames:
                call.sink.line(frame)
                await call.exchange.drain()
    except GoError as error:
        refusal = failure(error)
        call.sink.error(refusal.status, refusal.text)


class _Stream:
    """The frames of one chat answer."""

    def __init__(
        self, call: Call, held: Scheduled, request: Request, values: Values, prompt: str, clocks: Clocks
    ) -> None:
        self._call = call
        self._held = held
        self._request = request
        self._values = values
        self._prompt = prompt
        self._clocks = clocks
        self._tags = held.model.thinking_tags()
        self._thoughts = _thoughts(values.think, *self._tags, prompt)
        self._tools = ToolParser(values.tools, held.model.tool_tag()) if values.tools else None

    def _pieces(self, request: Request, prompt: str, *, thinks: bool) -> AsyncGenerator[Piece, None]:
        values, model = self._values, self._held.model
        ask = Ask(
            prompt,
            thinks=self._tags if thinks else None,
            tools=values.tools or [] if values.messages[-1]["Role"] == "user" else [],
            tool_tag=model.tool_tag(),
        )
        return completion(self._call, self._held, Wish(request, prompt, request["truncate"] is not False, ask))

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Frame by frame. A model that thinks has its format applied from the first content on, in a second run."""
        prompt, thinks = self._prompt, self._thoughts is not None
        if self._thoughts is not None and self._request["format"] is not None:
            async with aclosing(self._thinking(self._thoughts)) as frames:
                async for frame in frames:
                    yield frame
                    if frame["done"]:
                        return
            prompt, thinks = render(self._held, self._request, self._values).text, False
        async with aclosing(self._run(self._pieces(self._request, prompt, thinks=thinks))) as frames:
            async for frame in frames:
                yield frame

    async def _thinking(self, parser: ThinkingParser) -> AsyncGenerator[Frame, None]:
        """The thinking alone, without a format; it becomes part of the conversation."""
        thought = ""
        async with aclosing(self._pieces({**self._request, "format": None}, self._prompt, thinks=True)) as pieces:
            async for piece in pieces:
                thinking, content = parser.add(piece.content)
                thought += thinking
                if thought and content:
                    yield self._frame(piece, "", thinking)
                    break
                if thinking or content or piece.done:
                    yield self._frame(piece, content, thinking)
        self._values.messages = [*self._values.messages, {"Role": "assistant", "Thinking": thought}]

    async def _run(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Frame, None]:
        async with aclosing(pieces):
            async for piece in pieces:
                thinking, content = "", piece.content
                if self._thoughts is not None:
                    thinking, content = self._thoughts.add(content)
                    if not thinking and not content and not piece.done:
                        continue
                if self._tools is None:
                    yield self._frame(piece, content, thinking)
                    continue
                for frame in self._with_tools(self._tools, piece, content, thinking):
                    yield frame

    def _with_tools(self, parser: ToolParser, piece: Piece, content: str, thinking: str) -> list[Frame]:
        calls, shown = parser.add(content)
        if shown:
            return [self._frame(piece, shown, thinking)]
        if calls:
            for call in calls:
                call["id"] = tool_call_id()
            return [self._frame(piece, "", thinking, calls)]
        if thinking:
            return [self._frame(piece, content, thinking)]
        if piece.done:
            return [self._frame(piece, parser.rest(), "")]
        return [self._frame(piece, "", "")] if piece.logprobs else []

    def _frame(self, piece: Piece, content: str, thinking: str, calls: list[ToolCall] | None = None) -> Frame:
        message: Frame = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        frame: Frame = {"model": self._call.model_name, "created_at": created_at(), "message": message}
        frame["done"] = piece.done
        if piece.done:
            frame["done_reason"] = piece.done_reason
        if piece.logprobs:
            frame["logprobs"] = piece.logprobs
        if piece.done:
            frame.update(self._clocks.final(piece))
        return frame


def _thoughts(think: Thinking, opening: str, closing: str, prompt: str) -> ThinkingParser | None:
    if not (think.on and opening and closing):
        return None
    parser = ThinkingParser(opening, closing)
    if prompt.strip().endswith(opening):
        parser.add(opening)
    return parser


def tool_call_id() -> str:
    """``toolCallId``: "call_" and eight letters or digits."""
    letters = string.ascii_lowercase + string.digits
    return "call_" + "".join(random.choices(letters, k=8))  # noqa: S311 - an id, not a secret


async def _joined(frames: AsyncIterator[Frame], *, with_tools: bool) -> Frame:
    """One answer out of all frames.

    Raises:
        Refusal: the runner failed.
    """
    last: Frame = {}
    content = thinking = ""
    calls: list[object] = []
    logprobs: list[object] = []
    try:
        async for frame in frames:
            message = frame["message"]
            assert isinstance(message, Mapping)  # noqa: S101 - made above
            content += str(message["content"])
            thinking += str(message.get("thinking", ""))
            calls += list_field(message, "tool_calls") if with_tools else []
            logprobs += list_field(frame, "logprobs")
            last = frame
    except GoError as error:
        raise failure(error) from None
    message_out: Frame = {"role": "assistant", "content": content}
    if thinking:
        message_out["thinking"] = thinking
    if calls:
        message_out["tool_calls"] = calls
    out: Frame = {}
    for name, value in last.items():
        if name != "logprobs":
            out[name] = message_out if name == "message" else value
        if name == "done_reason" and logprobs:
            out["logprobs"] = logprobs
    return out

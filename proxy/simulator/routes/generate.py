"""POST /api/generate (Ollama v0.24.0 ``server/routes.go``, ``GenerateHandler``)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from proxy.simulator.api.requests import GENERATE
from proxy.simulator.engine.faults import ServerCrash
from proxy.simulator.engine.model import Model, parse_model_template
from proxy.simulator.engine.render import Message, Thinking, Values, chat_prompt, execute_template
from proxy.simulator.engine.texts import Ask
from proxy.simulator.engine.thoughts import ThinkingParser
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
    from proxy.simulator.engine.runner import Piece

Request = Mapping[str, object]
Frame = dict[str, object]


async def generate(call: Call) -> None:
    """Answer a generate request: unload, load, render, or generate."""
    clocks = Clocks(time.monotonic_ns())
    request = await call.bind(GENERATE)
    check_top_logprobs(request)
    raw_name = text_field(request, "model")
    call.model_name = raw_name
    reference = reference_or_refuse(raw_name, 404, f"model '{raw_name}' not found")
    model = find_model(call, reference, raw_name)
    if model.is_remote:
        images.refuse_remote(call, model)
    if not request["prompt"] and request["keep_alive"] == 0 and request["keep_alive"] is not None:
        call.state.scheduler.expire(model)
        call.sink.json(200, _bare(call, "unload"))
        return
    if "image" in model.capabilities():
        await images.generate_image(call, model, request, clocks)
        return
    if request["raw"] and (request["template"] or request["system"] or request["context"]):
        raise Refusal(400, "raw mode does not support template, system, or context")
    wanted = ["completion"] + (["insert"] if request["suffix"] else [])
    think = thinking_of(call, wanted, model.capabilities(), request["think"])
    hold = scheduled(call, model, wanted, options_field(request), request["keep_alive"], verb="generate")
    async with hold as held:
        clocks.loaded_ns = time.monotonic_ns()
        if not request["prompt"]:
            call.sink.json(200, _bare(call, "load"))
            return
        await _answer(call, held, request, think, clocks)


def _bare(call: Call, reason: str) -> Frame:
    return {
        "model": call.model_name,
        "created_at": created_at(),
        "response": "",
        "done": True,
        "done_reason": reason,
    }


async def _answer(call: Call, held: Scheduled, request: Request, think: Thinking, clocks: Clocks) -> None:
    try:
        prompt, image_count = _render(held, request, think)
    except GoError as error:
        raise Refusal(500, str(error)) from None
    if request["_debug_render_only"]:
        info: Frame = {"rendered_template": prompt}
        if image_count:
            info["image_count"] = image_count
        frame = {"model": call.model_name, "created_at": created_at(), "response": "", "done": False}
        call.sink.json(200, {**frame, "_debug_info": info})
        return
    frames = _frames(call, held, request, think, prompt, clocks)
    if request["stream"] is False:
        call.sink.json(200, await _joined(frames))
        return
    call.sink.begin_stream()
    try:
        async with aclosing(frames):
            async for frame in frames:
                call.sink.line(frame)
                await call.exchange.drain()
    except GoError as error:
        refusal = failure(error)
        call.sink.error(refusal.status, refusal.text)


def _render(held: Scheduled, request: Request, think: Thinking) -> tuple[str, int]:
    """The prompt, and how many images it has."""
    model = held.model
    prompt = text_field(request, "prompt")
    pictures = list_field(request, "images")
    if request["raw"]:
        return prompt, len(pictures)
    own_template = text_field(request, "template")
    template = parse_model_template(own_template) if own_template else model.template
    values = Values(prompt=prompt, suffix=text_field(request, "suffix"), think=think)
    if not values.suffix:
        values = Values(_messages(model, request, pictures), think=think)
    earlier = ""
    if request["context"] is not None:
        try:
            earlier = held.runner.tokenizer.decode([n for n in list_field(request, "context") if isinstance(n, int)])
        except IndexError:
            raise ServerCrash from None
    if values.suffix or own_template:
        return earlier + execute_template(template, values), len(pictures)
    values.tools = []
    rendered = chat_prompt(
        model,
        lambda text: len(held.runner.tokenizer.encode(text)),
        held.options.num_ctx,
        values,
        truncate=request["truncate"] is not False,
    )
    return earlier + rendered.text, rendered.images


def _messages(model: Model, request: Request, pictures: list[object]) -> list[Message]:
    messages: list[Message] = []
    system = text_field(request, "system") or model.system
    if system:
        messages.append({"Role": "system", "Content": system})
    if request["context"] is None:
        messages += model.messages
    user: Message = {"Role": "user", "Content": text_field(request, "prompt")}
    if pictures:
        user["Images"] = pictures
    return [*messages, user]


async def _frames(
    call: Call, held: Scheduled, request: Request, think: Thinking, prompt: str, clocks: Clocks
) -> AsyncGenerator[Frame, None]:
    opening, closing = held.model.thinking_tags()
    parser = ThinkingParser(opening, closing) if think.on and opening and closing else None
    if parser is not None and prompt.strip().endswith(opening):
        parser.add(opening)
    ask = Ask(prompt, thinks=(opening, closing) if parser is not None else None)
    whole = ""
    wish = Wish(request, prompt, request["truncate"] is not False, ask)
    async with aclosing(completion(call, held, wish)) as pieces:
        async for piece in pieces:
            whole += piece.content
            thinking, content = parser.add(piece.content) if parser is not None else ("", piece.content)
            yield _frame(call, held, request, piece, (thinking, content, prompt + whole), clocks)


def _frame(
    call: Call, held: Scheduled, request: Request, piece: Piece, texts: tuple[str, str, str], clocks: Clocks
) -> Frame:
    thinking, content, everything = texts
    frame: Frame = {"model": call.model_name, "created_at": created_at(), "response": content}
    if thinking:
        frame["thinking"] = thinking
    frame["done"] = piece.done
    if piece.done:
        frame["done_reason"] = piece.done_reason
        if not request["raw"]:
            frame["context"] = held.runner.tokenizer.encode(everything)
        frame.update(clocks.final(piece))
    if piece.logprobs:
        frame["logprobs"] = piece.logprobs
    return frame


async def _joined(frames: AsyncGenerator[Frame, None]) -> Frame:
    """One answer out of all frames: the last one, with texts and logprobs joined.

    Raises:
        Refusal: the runner failed.
    """
    last: Frame = {}
    content = thinking = ""
    logprobs: list[object] = []
    try:
        async for frame in frames:
            content += str(frame["response"])
            thinking += str(frame.get("thinking", ""))
            logprobs += list_field(frame, "logprobs")
            last = frame
    except GoError as error:
        raise failure(error) from None
    out: Frame = {}
    for name, value in last.items():
        if name not in ("thinking", "logprobs"):
            out[name] = content if name == "response" else value
        if name == "response" and thinking:
            out["thinking"] = thinking
    if logprobs:
        out["logprobs"] = logprobs
    return out

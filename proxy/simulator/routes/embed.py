"""POST /api/embed and /api/embeddings (Ollama v0.24.0 ``server/routes.go``)."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from typing import TYPE_CHECKING

from proxy.simulator.api.requests import EMBED, EMBEDDINGS
from proxy.simulator.engine.faults import IN_STREAM, UNEXPECTED_EOF, CutConnection
from proxy.simulator.engine.runner import StatusError
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.golang.jsonout import Float32
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import Clocks, options_field, text_field
from proxy.simulator.routes.lookup import Scheduled, load, reference_or_refuse, refuse_cloud, scheduled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


async def embed(call: Call) -> None:
    """One or several texts to vectors of length one."""
    clocks = Clocks(time.monotonic_ns())
    request = await call.bind(EMBED)
    raw_name = text_field(request, "model")
    call.model_name = raw_name
    reference = reference_or_refuse(raw_name, 404, f"model '{raw_name}' not found")
    if reference.source == "cloud":
        raise refuse_cloud(call)
    texts = _inputs(request["input"])
    model = load(call.state, reference.name)
    if model is None:
        raise Refusal(404, f"model {go_quote(raw_name)} not found, try pulling it first")
    async with scheduled(call, model, [], options_field(request), request["keep_alive"]) as held:
        clocks.loaded_ns = time.monotonic_ns()
        if not texts:
            call.sink.json(200, {"model": raw_name, "embeddings": []})
            return
        _maybe_fail(call, held)
        results = await _all(held, texts, request)
        answer: dict[str, object] = {"model": raw_name, "embeddings": [vector for vector, _ in results]}
        answer["total_duration"] = time.monotonic_ns() - clocks.start_ns
        answer["load_duration"] = clocks.loaded_ns - clocks.start_ns
        answer["prompt_eval_count"] = sum(count for _, count in results)
        call.sink.json(200, answer)


def _inputs(given: object) -> list[str]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise Refusal(400, "invalid input type")
    return list(given)


def _maybe_fail(call: Call, held: Scheduled) -> None:
    fault = call.state.faults.take(IN_STREAM, call.seen.path, held.model.short_name)
    if fault is None:
        return
    if fault.kind == "error_line":
        raise Refusal(400, f"do embedding request: {UNEXPECTED_EOF}")
    raise CutConnection(reset=fault.kind == "reset_stream")


async def _all(held: Scheduled, texts: Sequence[str], request: Mapping[str, object]) -> list[tuple[list[float], int]]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one(held, text, request)) for text in texts]
    except* StatusError as errors:
        first = errors.exceptions[0]
        assert isinstance(first, StatusError)  # noqa: S101 - except* says so
        raise Refusal(first.status, str(first).strip()) from None
    except* GoError as errors:
        raise Refusal(400, str(errors.exceptions[0]).strip()) from None
    return [task.result() for task in tasks]


async def _one(held: Scheduled, text: str, request: Mapping[str, object]) -> tuple[list[float], int]:
    vector, count = await _truncated(held, text, cut=request["truncate"] is not False)
    vector = normalize(vector)
    dimensions = request["dimensions"]
    if isinstance(dimensions, int) and 0 < dimensions < len(vector):
        vector = normalize(vector[:dimensions])
    return vector, count


async def _truncated(held: Scheduled, text: str, *, cut: bool) -> tuple[list[float], int]:
    try:
        return await held.runner.embed(text)
    except StatusError as error:
        if error.status != 400 or not cut:
            raise
    tokens = held.runner.tokenizer.encode(text)
    limit = min(held.options.num_ctx, held.runner.weights.context_length)
    # Ollama leaves room for the tokens that the runner puts around the text.
    limit -= 2
    if len(tokens) <= limit:
        raise GoError("input exceeds maximum context length and cannot be truncated further")
    if limit <= 0:
        raise GoError("input after truncation exceeds maximum context length")
    return await held.runner.embed(held.runner.tokenizer.decode(tokens[:limit]))


def normalize(vector: Sequence[float]) -> list[float]:
    """The vector with length one, in 32-bit arithmetic."""
    total = 0.0
    for value in vector:
        total = _round32(total + _round32(value * value))
    if abs(total - 1.0) < 1e-6:
        return [Float32(value) for value in vector]
    factor = _round32(1.0 / max(math.sqrt(total), 1e-12))
    return [Float32(_round32(value * factor)) for value in vector]


def _round32(value: float) -> float:
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


async def embeddings(call: Call) -> None:
    """The older route: one text, the raw vector."""
    request = await call.bind(EMBEDDINGS)
    raw_name = text_field(request, "model")
    call.model_name = raw_name
    reference = reference_or_refuse(raw_name, 400, "model is required")
    if reference.source == "cloud":
        raise refuse_cloud(call)
    # This route alone wants the name in its own spelling: it does not ask getExistingName.
    exact = call.state.store.find(reference.name) is not None
    model = load(call.state, reference.name) if exact else None
    if model is None:
        raise Refusal(404, f"model {go_quote(raw_name)} not found, try pulling it first")
    async with scheduled(call, model, [], options_field(request), request["keep_alive"]) as held:
        text = text_field(request, "prompt")
        if not text:
            call.sink.json(200, {"embedding": []})
            return
        _maybe_fail(call, held)
        try:
            vector, _ = await held.runner.embed(text)
        except GoError as error:
            raise Refusal(500, str(error).strip()) from None
        call.sink.json(200, {"embedding": [float(_round32(value)) for value in vector]})

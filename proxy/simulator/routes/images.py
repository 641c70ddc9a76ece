"""Models that make images, and models that run elsewhere (``handleImageGenerate``, the remote branches)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import Clocks, created_at
from proxy.simulator.routes.lookup import NO_REMOTE, refuse_cloud, scheduled, unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.simulator.engine.model import Model

_MAX_SIDE: Final = 4096
_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def refuse_remote(call: Call, model: Model) -> None:
    """A remote model cannot be reached from here; always raises ``Refusal``."""
    if call.state.environment.no_cloud:
        raise refuse_cloud(call, NO_REMOTE)
    if "ollama.com" not in model.remote_host:
        raise Refusal(400, "this server cannot run this remote model")
    call.sink.response.set_header("Content-Type", "application/x-ndjson")
    raise Refusal(500, unreachable("post", f"{model.remote_host}{call.seen.path}?ts={int(time.time())}"))


async def generate_image(call: Call, model: Model, request: Mapping[str, object], clocks: Clocks) -> None:
    """Steps, and at the end one picture."""
    for side in ("width", "height"):
        value = request[side]
        if isinstance(value, int) and value > _MAX_SIDE:
            raise Refusal(400, f"width and height must be <= {_MAX_SIDE}")
    async with scheduled(call, model, ["image"], None, request["keep_alive"]) as held:
        clocks.loaded_ns = time.monotonic_ns()
        base = {"model": call.model_name, "created_at": created_at(), "response": ""}
        if not request["prompt"]:
            call.sink.json(200, {**base, "done": True, "done_reason": "load"})
            return
        streams = request["stream"] is not False
        asked = request["steps"]
        steps = asked if isinstance(asked, int) and asked > 0 else 4
        if streams:
            call.sink.begin_stream()
        for step in range(1, steps + 1):
            await call.state.pace.spend(1 / held.runner.weights.tokens_per_s)
            if streams:
                call.sink.line({**base, "created_at": created_at(), "done": False, "completed": step, "total": steps})
        last = {
            **base,
            "created_at": created_at(),
            "done": True,
            "done_reason": "stop",
            "total_duration": time.monotonic_ns() - clocks.start_ns,
            "load_duration": clocks.loaded_ns - clocks.start_ns,
            "image": _PIXEL,
        }
        if streams:
            call.sink.line(last)
        else:
            call.sink.json(200, last)

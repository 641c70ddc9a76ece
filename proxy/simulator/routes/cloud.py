"""Routes that would leave the machine: account, web search, recommendations. Nothing here connects anywhere."""

from __future__ import annotations

from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.lookup import refuse_cloud


async def whoami(call: Call) -> None:
    """POST /api/me: no account can be asked."""
    raise Refusal(503, "account unavailable")


async def signout(call: Call) -> None:
    """POST /api/signout."""
    raise Refusal(500, "there was an error signing out")


async def web_search(call: Call) -> None:
    """POST /api/experimental/web_search."""
    await _web(call, "web search is unavailable")


async def web_fetch(call: Call) -> None:
    """POST /api/experimental/web_fetch."""
    await _web(call, "web fetch is unavailable")


async def _web(call: Call, operation: str) -> None:
    if not (await call.read()).strip():
        raise Refusal(400, "missing request body")
    raise refuse_cloud(call, operation)


async def recommendations(call: Call) -> None:
    """GET /api/experimental/model-recommendations: the built-in list."""
    call.sink.json(200, {"recommendations": RECOMMENDATIONS})


def _cloud(model: str, description: str, context: int, output: int) -> dict[str, object]:
    limits = {"context_length": context, "max_output_tokens": output}
    return {"model": model, "description": description, **limits}


# Ollama v0.24.0 server/model_recommendations.go, defaultModelRecommendations.
_LONG_HORIZON = "State-of-the-art coding, long-horizon execution, and multimodal agent swarm capability"
RECOMMENDATIONS: list[dict[str, object]] = [
    _cloud("kimi-k2.6:cloud", _LONG_HORIZON, 262_144, 262_144),
    _cloud("glm-5.1:cloud", "Reasoning and code generation", 202_752, 131_072),
    _cloud("qwen3.5:cloud", "Reasoning, coding, and agentic tool use with vision", 262_144, 32_768),
    _cloud("minimax-m2.7:cloud", "Fast, efficient coding and real-world productivity", 204_800, 128_000),
    {"model": "gemma4", "description": "Reasoning and code generation locally", "vram_bytes": 12_000_000_000},
    {
        "model": "qwen3.5",
        "description": "Reasoning, coding, and visual understanding locally",
        "vram_bytes": 14_000_000_000,
    },
]

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
    raise refuse_cloud(call.state, operation)


async def recommendations(call: Call) -> None:
    """GET /api/experimental/model-recommendations: the built-in list."""
    call.sink.json(200, {"recommendations": RECOMMENDATIONS})


RECOMMENDATIONS: list[dict[str, object]] = []

"""Which ``keep_alive`` a request is sent with.

Kept models have the operator's; others keep the client's. A ``keep_alive`` belongs to the whole runner, not to the
request: the last one that Ollama was told holds for everybody (v0.24.0, server/sched.go, ``useLoadedRunner``), and a
request without one leaves it as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from proxy.wire.durations import parse_keep_alive

if TYPE_CHECKING:
    from proxy.settings import KeepAlive

Policy = Literal["ignore", "respect", "extend"]


def decide(
    client: object,
    kept: KeepAlive | None,
    default: KeepAlive | None,
    policy: Policy = "ignore",
    runner_expires_in_s: float | None = None,
) -> KeepAlive | None:
    """The value to put into the request, or ``None`` to leave it as it came.

    Args:
        client: The request's value as JSON has it; ``None`` where it has none.
        kept: The configured value of a kept model; ``None`` for every other model.
        default: ``defaults.keep_alive``, for models that are not kept.
        policy: Whether a client's value for a kept model is ignored, respected, or taken when it is longer.
        runner_expires_in_s: Seconds until the loaded runner expires; ``None`` where none is known to be loaded.
    """
    client_s: float | None = None
    if client is not None:
        try:
            client_s = parse_keep_alive(client)
        except ValueError:
            # Ollama refuses it, and its own error is the answer.
            return None
    if kept is None:
        if client_s is not None or default is None:
            return None
        if runner_expires_in_s is not None and runner_expires_in_s > (parse_keep_alive(default) or 0.0):
            return None
        return default
    if client_s is not None and policy == "respect":
        return None
    if client_s is not None and policy == "extend" and client_s > (parse_keep_alive(kept) or 0.0):
        return None
    return kept if client != kept else None

"""What the real server takes from its environment (Ollama v0.24.0 ``envconfig/config.go``)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang.clock import MAX_DURATION_NS, NANOSECONDS, parse_duration
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.state import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERS: Final = {
    "OLLAMA_NUM_PARALLEL": "parallel",
    "OLLAMA_MAX_LOADED_MODELS": "max_loaded",
    "OLLAMA_MAX_QUEUE": "max_queue",
    "OLLAMA_CONTEXT_LENGTH": "num_ctx",
}


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().strip("\"'")


def machine_changes(environ: Mapping[str, str]) -> dict[str, int]:
    """Fields of ``Machine`` that the environment sets; what is no number is passed over, as Ollama does."""
    changes: dict[str, int] = {}
    for name, field in _NUMBERS.items():
        text = _value(environ, name)
        if text.isdigit() and int(text) > 0:
            changes[field] = int(text)
    keep_alive = _value(environ, "OLLAMA_KEEP_ALIVE")
    if keep_alive:
        nanoseconds = _keep_alive_ns(keep_alive)
        if nanoseconds is not None:
            changes["keep_alive_ns"] = nanoseconds if nanoseconds >= 0 else MAX_DURATION_NS
    return changes


def _keep_alive_ns(text: str) -> int | None:
    try:
        return parse_duration(text)
    except GoError:
        return int(text) * NANOSECONDS if text.lstrip("-").isdigit() else None


def serve_environment(environ: Mapping[str, str], host: str) -> Environment:
    """Switches for a server that listens on ``host``: Host is checked only on loopback."""
    origins = tuple(part for part in _value(environ, "OLLAMA_ORIGINS").split(",") if part)
    return Environment(
        no_cloud=_value(environ, "OLLAMA_NO_CLOUD").lower() not in ("", "0", "f", "false"),
        checks_host=_is_loopback(host),
        origins=origins,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

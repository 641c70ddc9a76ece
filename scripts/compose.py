"""The variables of the compose files, for ``.env.example``: what each means; its default is read from the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

_HEAD: Final = """\
# For docker compose and for Pilotlight itself: `cp .env.example .env`, and take the # from what is to be another. Each
# line has its default; empty: not set. Nothing here is secret: keys and passwords are files that deploy/prepare makes.
#
# docker compose has variables of its own that choose files and services:
#     COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml          NVIDIA's GPUs
#     COMPOSE_FILE=docker-compose.yml:docker-compose.simulated.yml    a simulated Ollama
#     COMPOSE_PROFILES=edge                                           nginx with TLS
"""

_MEANINGS: Final = {
    "For other machines: docs/deploy.md": {
        "EDGE_ADDRESS": "Where nginx is published: 0.0.0.0 for all networks. Once it is set, everybody needs a key.",
        "EDGE_PORT": "Its port.",
        "PUBLIC_HOST": "The name or address under which clients reach it, for the certificate and for edge.hosts.",
        "EDGE_SUBNET": "The network between nginx and Pilotlight, where this one is taken.",
    },
    "On this machine, at 127.0.0.1": {
        "PROXY_PORT": "Port of the proxy, for applications.",
        "ADMIN_PORT": "Port of the live page, health and metrics.",
        "GRAFANA_PORT": "Port of Grafana.",
    },
    "Ollama's own, for Ollama and Pilotlight alike": {
        "OLLAMA_CONTEXT_LENGTH": "Tokens of context where a request does not say; by default it depends on the memory.",
        "OLLAMA_FLASH_ATTENTION": "1: less memory for the context.",
        "OLLAMA_KEEP_ALIVE": "How long a model stays that Pilotlight does not keep, such as 10m.",
        "OLLAMA_KV_CACHE_TYPE": "q8_0: half the memory for the context; needs flash attention.",
        "OLLAMA_LOAD_TIMEOUT": "When a load that stands still is given up.",
        "OLLAMA_MAX_LOADED_MODELS": "Models in memory at once.",
        "OLLAMA_MAX_QUEUE": "Calls that may wait in Ollama.",
        "OLLAMA_NUM_PARALLEL": "Calls for one model at once.",
    },
    "Limits and retention": {
        "LIMIT_OLLAMA_MEMORY": "Memory of Ollama, beside that of the GPU; has to hold the models.",
        "LIMIT_PILOTLIGHT_MEMORY": "Memory of Pilotlight; more where cache.max_bytes or edge.max_body are raised.",
        "PROMETHEUS_RETENTION": "How long Prometheus keeps figures.",
        "PROMETHEUS_RETENTION_SIZE": "How much of them.",
    },
    "Images": {
        "IMAGE_PILOTLIGHT": "What the image that is built here is called.",
        "IMAGE_PYTHON": "What it is built from; with @sha256:... it is the same each time.",
        "IMAGE_OLLAMA": "The version that Pilotlight is compared with.",
        "IMAGE_PROMETHEUS": "",
        "IMAGE_GRAFANA": "",
        "IMAGE_NGINX": "",
        "IMAGE_GPU_EXPORTER": "",
    },
}


def compose_variables() -> Iterator[tuple[str, str]]:
    """Each variable with its default, in the order of the example.

    Raises:
        ValueError: The files do not agree about a default, or do not use the variable.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docker-compose*.yml"))]
    for meanings in _MEANINGS.values():
        for name in meanings:
            uses = {use for text in texts for use in re.findall(rf"\$\{{{name}(:[-+][^}}]*)\}}", text)}
            # That it is set at all means something, so that its default would too.
            defaults = {""} if any(use.startswith(":+") for use in uses) else {use[2:] for use in uses}
            if len(defaults) != 1:
                raise ValueError(f"{name} has {len(defaults)} defaults in the compose files")
            yield name, defaults.pop()


def compose_section() -> str:
    """The part of ``.env.example`` that docker compose reads."""
    defaults = dict(compose_variables())
    parts = [_HEAD]
    for title, meanings in _MEANINGS.items():
        parts.append(f"\n# --- {title}\n")
        for name, meaning in meanings.items():
            parts.append((f"# {meaning}\n" if meaning else "") + f"# {name}={defaults[name]}\n")
    return "".join(parts)

"""``anthropic`` for Python."""

from __future__ import annotations

from typing import Any

import anthropic
from contract import CHAT_MODEL, EMBED_MODEL, ENDLESS_TOKENS, MISSING_MODEL, TOKENS, TOOL, Calls, cancelled, main

MESSAGES = [{"role": "user", "content": "Tell me <something>."}]
_FUNCTION: dict[str, Any] = TOOL["function"]  # type: ignore[assignment]
TOOLS = [
    {
        "name": _FUNCTION["name"],
        "description": _FUNCTION["description"],
        "input_schema": _FUNCTION["parameters"],
    }
]


def calls_to(url: str, control: str) -> Calls:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)

    def send(model: str = CHAT_MODEL, **given: Any) -> Any:
        asked = {"model": model, "messages": MESSAGES, "system": "Be brief.", "max_tokens": TOKENS, **given}
        return client.messages.create(**asked)

    def cancel() -> object:
        stream = send(max_tokens=ENDLESS_TOKENS, stream=True)
        return cancelled(control, stream, stream.close)

    return {
        "list": lambda: sorted(model.id for model in client.models.list()),
        "chat": send,
        "stream": lambda: list(send(stream=True)),
        "tools": lambda: [send(tools=TOOLS), list(send(tools=TOOLS, stream=True))],
        "error": lambda: send(EMBED_MODEL),
        "cancel": cancel,
        "model not found": lambda: send(MISSING_MODEL),
    }


main(calls_to)

"""``openai`` for Python."""

from __future__ import annotations

from typing import Any

import openai
from contract import (
    CHAT_MODEL,
    EMBED_MODEL,
    ENDLESS_TOKENS,
    MESSAGES,
    MISSING_MODEL,
    TOKENS,
    TOOL,
    Calls,
    cancelled,
    main,
)


def calls_to(url: str, control: str) -> Calls:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def chat(model: str = CHAT_MODEL, **given: Any) -> Any:
        return client.chat.completions.create(
            **{"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS, **given}
        )

    def cancel() -> object:
        stream = chat(max_tokens=ENDLESS_TOKENS, stream=True)
        return cancelled(control, stream, stream.close)

    return {
        "list": lambda: sorted(model.id for model in client.models.list()),
        "chat": chat,
        "stream": lambda: list(chat(stream=True, stream_options={"include_usage": True})),
        "tools": lambda: [chat(tools=[TOOL]), list(chat(tools=[TOOL], stream=True))],
        "embeddings": lambda: client.embeddings.create(model=EMBED_MODEL, input=["one text", "another"]),
        "error": lambda: chat(EMBED_MODEL),
        "cancel": cancel,
        "model not found": lambda: chat(MISSING_MODEL),
    }


main(calls_to)

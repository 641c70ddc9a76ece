"""``ollama`` for Python, the synchronous client."""

from __future__ import annotations

import ollama
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

OPTIONS = {"temperature": 0, "num_predict": TOKENS}


def calls_to(url: str, control: str) -> Calls:
    client = ollama.Client(url)

    def cancel() -> object:
        stream = client.chat(CHAT_MODEL, MESSAGES, options={"num_predict": ENDLESS_TOKENS}, stream=True)
        return cancelled(control, stream, stream.close)

    return {
        "list": lambda: sorted(model.model for model in client.list().models),
        "chat": lambda: client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS),
        "stream": lambda: list(client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS, stream=True)),
        "tools": lambda: client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS, tools=[TOOL]),
        "embeddings": lambda: client.embed(EMBED_MODEL, ["one text", "another"]),
        "error": lambda: client.chat(EMBED_MODEL, MESSAGES),
        "cancel": cancel,
        "model not found": lambda: client.chat(MISSING_MODEL, MESSAGES),
    }


main(calls_to)

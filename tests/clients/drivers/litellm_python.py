"""``litellm`` as a client."""

from __future__ import annotations

import os
from typing import Any

# It would ask the network for a list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
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
    def chat(model: str = CHAT_MODEL, way: str = "ollama_chat", **given: Any) -> Any:
        asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS, "num_retries": 0, **given}
        return litellm.completion(f"{way}/{model}", api_base=url, **asked)

    def cancel() -> object:
        stream = chat(stream=True, max_tokens=ENDLESS_TOKENS)
        return cancelled(control, stream, stream.completion_stream.close)

    return {
        "list": lambda: sorted(
            litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="ollama", api_base=url)
        ),
        "chat": lambda: [chat(), chat(way="ollama")],
        "stream": lambda: [list(chat(stream=True)), list(chat(way="ollama", stream=True))],
        "tools": lambda: chat(tools=[TOOL]),
        "embeddings": lambda: litellm.embedding(f"ollama/{EMBED_MODEL}", input=["one text", "another"], api_base=url),
        "error": lambda: chat(EMBED_MODEL),
        "cancel": cancel,
        "model not found": lambda: chat(MISSING_MODEL),
    }


main(calls_to)

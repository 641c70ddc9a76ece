"""``langchain-ollama``."""

from __future__ import annotations

from typing import Any

from contract import CHAT_MODEL, EMBED_MODEL, ENDLESS_TOKENS, MISSING_MODEL, TOKENS, TOOL, Calls, cancelled, main
from langchain_ollama import ChatOllama, OllamaEmbeddings

MESSAGES = [("system", "Be brief."), ("human", "Tell me <something>.")]


def calls_to(url: str, control: str) -> Calls:
    def chat(model: str = CHAT_MODEL, tokens: int = TOKENS, **given: Any) -> ChatOllama:
        return ChatOllama(model=model, base_url=url, temperature=0, num_predict=tokens, **given)

    def cancel() -> object:
        stream = chat(tokens=ENDLESS_TOKENS).stream(MESSAGES)
        return cancelled(control, stream, stream.close)  # type: ignore[attr-defined]

    return {
        # What it lists the models for: to say at once that one is missing.
        "list": lambda: [chat(validate_model_on_init=True).model, chat(MISSING_MODEL, validate_model_on_init=True)],
        "chat": lambda: chat().invoke(MESSAGES),
        "stream": lambda: list(chat().stream(MESSAGES)),
        "tools": lambda: chat().bind_tools([TOOL]).invoke(MESSAGES),
        "embeddings": lambda: OllamaEmbeddings(model=EMBED_MODEL, base_url=url).embed_documents(
            ["one text", "another"]
        ),
        "error": lambda: chat(EMBED_MODEL).invoke(MESSAGES),
        "cancel": cancel,
        "model not found": lambda: chat(MISSING_MODEL).invoke(MESSAGES),
    }


main(calls_to)

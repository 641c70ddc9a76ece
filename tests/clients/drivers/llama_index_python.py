"""``llama-index-llms-ollama``."""

from __future__ import annotations

from typing import Any

from contract import CHAT_MODEL, EMBED_MODEL, ENDLESS_TOKENS, MISSING_MODEL, TOKENS, Calls, cancelled, main
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Tell me <something>.")]


def get_weather(city: str) -> str:
    """weather"""
    return city


def calls_to(url: str, control: str) -> Calls:
    def chat(model: str = CHAT_MODEL, tokens: int = TOKENS) -> Ollama:
        given: dict[str, Any] = {"temperature": 0, "additional_kwargs": {"num_predict": tokens}}
        return Ollama(model=model, base_url=url, context_window=4096, request_timeout=30, **given)

    def cancel() -> object:
        stream = chat(tokens=ENDLESS_TOKENS).stream_chat(MESSAGES)
        return cancelled(control, stream, stream.close)

    def tools() -> object:
        tool = FunctionTool.from_defaults(get_weather)
        return chat().chat_with_tools([tool], user_msg="Tell me <something>.")

    return {
        "chat": lambda: chat().chat(MESSAGES),
        "stream": lambda: [str(part.delta) for part in chat().stream_chat(MESSAGES)],
        "tools": tools,
        "error": lambda: chat(EMBED_MODEL).chat(MESSAGES),
        "cancel": cancel,
        "model not found": lambda: chat(MISSING_MODEL).chat(MESSAGES),
    }


main(calls_to)

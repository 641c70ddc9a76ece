"""The question whether generate and chat of one server render the same prompt for one model.

Asked once per server version and model digest, before the model's first rewriting. ``_debug_render_only`` makes Ollama
answer with the rendered prompt instead of running the model (0.24.0, ``server/routes.go``); a server that does not know
it generates one token, and the answer counts as "not the same".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from proxy.wire.gojson import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

# What templates and renderers treat in a way of their own: line ends, spaces at the edges, quotes and brackets,
# characters that Go escapes, tags of common templates and of images, text beyond the basic plane.
_SYSTEM: Final = "  Be brief.\n\n<b>\"'&\u2028{{ .Prompt }} </s>"
_PROMPT: Final = (
    ' a\tb\r\n"\\ <|im_start|>user [INST] <think>x</think> [img] {{ .System }} \u00e9\u4e16\U0001f600\u0000 \n'
)


def probe_bodies(
    model: str, options: Mapping[str, object] | None = None, keep_alive: object = None
) -> tuple[bytes, bytes]:
    """The bodies for ``/api/generate`` and ``/api/chat``; both answers are one JSON object.

    Args:
        model: As Ollama knows it.
        options: What the model is, or would be, loaded with: rendering loads the model.
        keep_alive: JSON value to send, ``None`` for none.
    """
    both: dict[str, Any] = {
        "model": model,
        "stream": False,
        "_debug_render_only": True,
        # For a server that does not know the field above.
        "options": {**(options or {}), "num_predict": 1},
    }
    if keep_alive is not None:
        both["keep_alive"] = keep_alive
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _PROMPT}]
    generate = {**both, "system": _SYSTEM, "prompt": _PROMPT}
    return json.dumps(generate).encode(), json.dumps({**both, "messages": messages}).encode()


def same_render(generate_reply: bytes, chat_reply: bytes) -> bool:
    """Whether both answers tell the same prompt. Anything else than two rendered prompts is "no"."""
    rendered = _rendered(generate_reply)
    return rendered is not None and rendered == _rendered(chat_reply)


def _rendered(reply: bytes) -> tuple[str, object] | None:
    frame = read_object(reply)
    info = None if frame is None else frame.given("_debug_info")
    if not isinstance(info, dict) or not isinstance(info.get("rendered_template"), str):
        return None
    return info["rendered_template"], info.get("image_count", 0)

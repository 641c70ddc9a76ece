"""Which generate bodies Ollama refuses before it looks at the prompt.

What must live here: the type of every field of ``GenerateRequest`` and of every option, as Go decodes them. What must
not: what is done about it. Where Ollama's verdict is not certain the answer is "refuses", because such a body goes to
Ollama as it came and Ollama's own answer goes back.

Source: Ollama 0.24.0, ``api/types.go`` (``GenerateRequest``, ``Options``, ``Options.FromMap``, ``Duration``,
``ThinkValue``), ``server/routes.go`` (``GenerateHandler``); Go, ``encoding/json/decode.go``, ``encoding/base64``.
"""

from __future__ import annotations

import binascii
import math
import re
from typing import TYPE_CHECKING, Final

from proxy.wire.durations import parse_keep_alive
from proxy.wire.gojson import UNREAD, JsonObject

if TYPE_CHECKING:
    from collections.abc import Callable

_INT32: Final = range(-(1 << 31), 1 << 31)
_INT64: Final = range(-(1 << 63), 1 << 63)
# A float64 ends at 1.8e308; fewer digits with a smaller exponent cannot pass it.
_MAY_OVERFLOW = re.compile(r"[0-9]{200}|[eE]\+?[0-9]{3}")
_NUMBERS = re.compile(r'"(?:[^"\\]++|\\.)*+"|(-?[0-9][0-9.eE+-]*+)')


def refused_field(obj: JsonObject) -> str:
    """The first field whose value Ollama refuses, or may refuse; "" when it takes them all.

    Args:
        obj: A body whose names are certain (``odd_for`` said no). Fields that generate does not know are not looked at.
    """
    for member in obj.members:
        takes = GENERATE_FIELDS.get(member.name)
        # Go's decoder takes null for every type.
        if takes is not None and member.value is not None and not takes(member.value):
            return member.name
    if "options" in obj and _holds_overflow(obj.raw("options")):
        return "options"
    return ""


def is_int64(value: object) -> bool:
    """Whether Go decodes the value into an ``int``: digits only, not ``1.0`` and not ``1e0``."""
    return type(value) is int and value in _INT64


def _is_int32(value: object) -> bool:
    return type(value) is int and value in _INT32


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_top_logprobs(value: object) -> bool:
    return type(value) is int and 0 <= value <= 20


def _is_format(value: object) -> bool:
    # A json.RawMessage takes any JSON; "yaml" is refused by the runner, in the same words for generate and chat.
    return True


def _is_keep_alive(value: object) -> bool:
    if value is UNREAD:
        return False
    try:
        parse_keep_alive(value)
    except ValueError:
        return False
    return True


def _is_think(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value in ("high", "medium", "low", "max"))


def _is_context(value: object) -> bool:
    if not isinstance(value, list):
        return False
    # Go leaves the 0 in place where an element is null.
    numbers = [number for number in value if number is not None] if None in value else value
    return {int}.issuperset(map(type, numbers)) and (not numbers or (min(numbers) in _INT64 and max(numbers) in _INT64))


def _are_images(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(image, str) and is_base64(image) for image in value)


def is_base64(text: str) -> bool:
    """Go's ``base64.StdEncoding``: padding required, line breaks anywhere, nothing else."""
    if "\n" in text or "\r" in text:
        text = text.replace("\n", "").replace("\r", "")
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return False
    return True


def _are_options(value: object) -> bool:
    return isinstance(value, dict) and all(
        option is None or name not in _OPTIONS or _OPTIONS[name](option) for name, option in value.items()
    )


def _holds_overflow(raw: str) -> bool:
    """Whether a number in a JSON text does not fit a ``float64``, those included that a later duplicate hides."""
    return _MAY_OVERFLOW.search(raw) is not None and any(
        number and math.isinf(float(number)) for number in _NUMBERS.findall(raw)
    )


def is_number(value: object) -> bool:
    """Whether Go decodes the value into a ``float64``. Which of these fit an ``int`` option it does not ask."""
    return type(value) is int or type(value) is float


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_OPTIONS: Final[dict[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"), is_number),
    **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"), is_number),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature"), is_number),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), is_number),
    "use_mmap": is_flag,
    "stop": _is_list_of_texts,
}

#: The fields of ``GenerateRequest``, each with the question whether Go takes a value for it.
GENERATE_FIELDS: Final[dict[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("model", "prompt", "suffix", "system", "template"), is_text),
    "context": _is_context,
    **dict.fromkeys(("stream", "raw", "truncate", "shift", "_debug_render_only", "logprobs"), is_flag),
    "format": _is_format,
    "keep_alive": _is_keep_alive,
    "images": _are_images,
    "options": _are_options,
    "think": _is_think,
    "top_logprobs": _is_top_logprobs,
    **dict.fromkeys(("width", "height", "steps"), _is_int32),
}

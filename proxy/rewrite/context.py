"""The conversation that a rewritten generate hands out as ``context`` and takes back.

Ollama's own ``context`` is a list of token numbers that only generate understands. Ours is a list of integers from 0 to
255, the bytes of a small container that holds the messages of the conversation as JSON text:

    6 bytes  mark       no tokenizer's prompt begins like this
    1 byte   version
    4 bytes  length of the messages' text, big endian
    4 bytes  CRC-32 of the compressed text
    n bytes  the text, compressed with zlib
    4 bytes  end mark   tells an array that lost its beginning from a foreign one

Nothing is stored here: whoever has the array has the conversation. The check finds damage, not forgery; a client that
makes an array of its own reaches nothing that ``/api/chat`` would not have given it. Numbers up to 255 exist in every
vocabulary, so an array of ours that reaches Ollama's generate by another way does no harm there.
"""

from __future__ import annotations

import enum
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.wire.gojson import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.wire.gojson import JsonObject

_MARK: Final = b"\x00plt\xff\x01"
_END: Final = b"\xfe\x00lt"
_VERSION: Final = 1
_HEAD_BYTES: Final = len(_MARK) + 9
_DECIMAL: Final = tuple(str(number) for number in range(256))

#: Beyond this many characters of messages a new conversation stays with Ollama's own context: about the text of a
#: prompt of 64,000 tokens. A longer one would have to be compressed and written out between two frames of others.
MAX_NEW_CHARS: Final = 256 * 1024
#: What a context may unpack to; a conversation that grew turn by turn, not a bomb of zeros.
_MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024
# No vocabulary is near this; the limit where a model's own is not known. Gemma's has 262,144 tokens.
_ASSUMED_VOCABULARY: Final = 1 << 20

_ROLES: Final = frozenset({"system", "user", "assistant"})
_TEXT_FIELDS: Final = frozenset({"role", "content", "thinking"})


class Origin(enum.Enum):
    """Who made a ``context``, and whether it is whole."""

    OWN = "own"
    FOREIGN = "foreign"
    BROKEN = "broken"


class Context(NamedTuple):
    """What a ``context`` turned out to be. ``messages`` is the JSON text of the list, for one of our own."""

    origin: Origin
    messages: str = ""


def encode(messages: str) -> str:
    """Write a conversation as the JSON text of a ``context``.

    Args:
        messages: JSON text of the list of messages, the reply included.
    """
    text = messages.encode("utf-8", "surrogateescape")
    packed = _compress(text)
    head = _MARK + bytes([_VERSION]) + len(text).to_bytes(4, "big") + zlib.crc32(packed).to_bytes(4, "big")
    return f"[{','.join(map(_DECIMAL.__getitem__, head + packed + _END))}]"


def _compress(text: bytes) -> bytes:
    # Small ones as small as they get; at the size of a book the processor's time counts for more. The window is no
    # larger than the text: zlib's usual one clears 256 KiB first, which takes five times as long as a short reply does.
    window_bits = min(15, max(10, len(text).bit_length()))
    level = 6 if len(text) < 65536 else 1
    packer = zlib.compressobj(level, zlib.DEFLATED, window_bits, max(5, window_bits - 7))
    return packer.compress(text) + packer.flush()


def classify(numbers: Sequence[Any]) -> Context:
    """Tell a ``context`` of our own from Ollama's, and a damaged one from both.

    Args:
        numbers: The decoded JSON list; elements may be of any type.
    """
    begins = tuple(numbers[: len(_MARK)]) == tuple(_MARK)
    ends = tuple(numbers[-len(_END) :]) == tuple(_END)
    if not begins and not ends:
        return Context(Origin.FOREIGN)
    messages = _unpack(numbers) if begins and ends else None
    return Context(Origin.BROKEN) if messages is None else Context(Origin.OWN, messages)


def holds_own(obj: JsonObject | None) -> bool:
    """Whether a body has a ``context`` of ours, damaged ones included: no generate of Ollama's understands it."""
    numbers = None if obj is None else obj.given("context")
    return isinstance(numbers, list) and classify(numbers).origin is not Origin.FOREIGN


def _unpack(numbers: Sequence[Any]) -> str | None:
    if not {int}.issuperset(map(type, numbers)) or len(numbers) < _HEAD_BYTES + len(_END):
        return None
    try:
        data = bytes(numbers)
    except ValueError:  # a number beyond 255
        return None
    at = len(_MARK)
    version, length = data[at], int.from_bytes(data[at + 1 : at + 5], "big")
    packed = data[_HEAD_BYTES : -len(_END)]
    if version != _VERSION or length > _MAX_UNPACKED_BYTES:
        return None
    if zlib.crc32(packed) != int.from_bytes(data[at + 5 : at + 9], "big"):
        return None
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, length + 1)
    except zlib.error:
        return None
    if len(text) != length or not unpacker.eof or unpacker.unused_data:
        return None
    messages = text.decode("utf-8", "surrogateescape")
    return messages if _are_messages(messages) else None


def _are_messages(text: str) -> bool:
    """Whether the text is a list of messages as this proxy writes them, and nothing but that."""
    wrapped = read_text(f'{{"messages":{text}}}')
    if wrapped is None or list(wrapped) != ["messages"] or wrapped.end != len(wrapped.text):
        return False
    messages = wrapped.get("messages")
    return isinstance(messages, list) and len(messages) > 0 and all(map(_is_message, messages))


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") not in _ROLES or "content" not in message:
        return False
    for name, value in message.items():
        if name == "images":
            if not isinstance(value, list) or not all(isinstance(image, str) for image in value):
                return False
        elif name not in _TEXT_FIELDS or not isinstance(value, str):
            return False
    return True


def beyond_vocabulary(numbers: Sequence[Any], vocab_size: int | None) -> int | None:
    """The first number of a foreign ``context`` that no token of the model has; ``None`` when there is none.

    One such number ends the whole Ollama 0.24.0 server, not the request alone: ``Detokenize`` hands it to the runner's
    vocabulary unchecked (``llm/server.go``).

    Args:
        numbers: The decoded JSON list. Elements that are no integers make Ollama refuse the body and are passed over.
        vocab_size: Number of tokens; where it is not known, only what no vocabulary has is told.
    """
    limit = vocab_size or _ASSUMED_VOCABULARY
    return next((number for number in numbers if type(number) is int and not 0 <= number < limit), None)

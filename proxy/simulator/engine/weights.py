"""What a model file would be: its facts, its tokens, and how fast it is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORD: Final = re.compile(r"<\|[a-z_]+\|>|</?[a-z_]+>|\s?[^\W_]{1,6}|\s+(?=\s)|\s?[^\w\s]|\s|_", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one or several models.

    Attributes:
        digest: "sha256:" and 64 hex digits: the identity of the blob, and what a runner belongs to.
        size_bytes: size of the file.
        resident_bytes: memory of a runner with no context at all.
        bytes_per_context_token: memory that each token of context adds.
        load_s: seconds that a load takes.
        prompt_tokens_per_s: speed of reading a prompt.
        tokens_per_s: speed of writing.
        info: what /api/show reports as model_info; ``verbose_info`` is put over it when asked to be verbose.
        replies: given tokens by prompt, or by "format\\0prompt"; None ends the reply, else it goes on as any other.
        embeddings: recorded raw vectors by text.
        lost_pairs: pairs of letters whose first one the tokenizer loses (the recorded models merge them into a token
            that they do not have).
        own_origin: the path in the FROM line's layer, shown as parent_model.
    """

    digest: str
    size_bytes: int
    architecture: str = "llama"
    parameter_size: str = "1B"
    quantization: str = "Q4_K_M"
    context_length: int = 8192
    embedding_length: int = 64
    vocab_size: int = 32_000
    embedding_only: bool = False
    vision: bool = False
    adds_bos: bool = True
    bytewise: bool = False
    special_tokens: tuple[str, ...] = ()
    resident_bytes: int = 0
    bytes_per_context_token: int = 0
    load_s: float = 0.3
    prompt_tokens_per_s: float = 4000.0
    tokens_per_s: float = 400.0
    info: Mapping[str, object] = field(default_factory=dict)
    verbose_info: Mapping[str, object] = field(default_factory=dict)
    tensors: tuple[Mapping[str, object], ...] = ()
    replies: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    embeddings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lost_pairs: tuple[str, ...] = ()
    own_origin: str = ""

    def memory_bytes(self, num_ctx: int) -> int:
        """Memory of a runner with this context."""
        return self.resident_bytes + num_ctx * self.bytes_per_context_token


class Tokenizer:
    """Text to tokens and back.

    The recorded models know bytes (0..255) and special tokens; the others split at words, and remember the pieces they
    have seen. A token at or above the vocabulary's size has no piece: detokenizing it is what kills Ollama 0.24.0.
    """

    _SPECIAL_BASE: Final = 688  # in the recorded models' vocabulary

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._pieces: dict[int, str] = {}
        self._special = {text: self._SPECIAL_BASE + index for index, text in enumerate(weights.special_tokens)}
        names = sorted(self._special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(re.escape(name) for name in names) + ")") if names else None

    def encode(self, text: str) -> list[int]:
        """Tokens, without a leading BOS."""
        if not self._weights.bytewise:
            return [self._word(piece) for piece in _WORD.findall(text)]
        for pair in self._weights.lost_pairs:
            text = text.replace(pair, pair[1:])
        tokens: list[int] = []
        for part in self._split.split(text) if self._split else [text]:
            if part in self._special:
                tokens.append(self._special[part])
            else:
                tokens.extend(part.encode("utf-8", "surrogateescape"))
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens.

        Raises:
            IndexError: a token is outside the vocabulary.
        """
        if any(token < 0 or token >= self._weights.vocab_size for token in tokens):
            raise IndexError("token outside the vocabulary")
        if not self._weights.bytewise:
            return "".join(self._pieces.get(token, f" w{token}") for token in tokens)
        names = {number: text for text, number in self._special.items()}
        out = bytearray()
        for token in filter(None, tokens):  # token 0 has no text
            out += bytes([token]) if token < 256 else names.get(token, f" w{token}").encode()
        return out.decode("utf-8", "replace")

    def _word(self, piece: str) -> int:
        number = int.from_bytes(hashlib.sha256(piece.encode("utf-8", "surrogateescape")).digest()[:4], "big")
        token = number % self._weights.vocab_size
        self._pieces.setdefault(token, piece)
        return token

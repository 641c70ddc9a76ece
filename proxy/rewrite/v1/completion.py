"""Replies of ``/api/generate`` as those of ``/v1/completions``.

What must live here: every byte of a chunk, in the order in which Ollama's own middleware writes it. It has no place for
thinking, calls of tools and logprobs.

Source: Ollama 0.24.0, ``openai/openai.go`` (``ToCompleteChunk``, ``ToCompletion``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.rewrite.tokens import GENERATE_TOKEN
from proxy.rewrite.v1.frames import EMPTY, FINGERPRINT, Frame, read_frame, usage_of
from proxy.rewrite.v1.mapper import Mapper
from proxy.wire.gowrite import rewritten

if TYPE_CHECKING:
    from proxy.wire.gojson import JsonObject


class CompletionMapper(Mapper):
    """Maps one reply."""

    def map_line(self, line: bytes) -> bytes:
        token = GENERATE_TOKEN.fullmatch(line)
        if token is None or b"\\ufffd" in line or not self.follows(token[1]):
            return super().map_line(line)
        return self.before + token[2] + self.after

    def around(self, created: int, model: str) -> tuple[str, str]:
        event = f"data: {self._chunk(created, model, self._choice('@', ''), usage_of(0, 0))}\n\n"
        before, _, after = event.partition('"text":@')
        return f'{before}"text":"', f'"{after}'

    def read(self, obj: JsonObject) -> Frame | None:
        if "response" not in obj:
            return None
        return read_frame(obj)._replace(content=rewritten(obj.raw("response")) or EMPTY)

    def chunks(self, frame: Frame) -> list[str]:
        chunks = [self._chunk(frame.created, frame.model, self._choice(frame.content, frame.reason), usage_of(0, 0))]
        if frame.done and self.includes_usage:
            chunks.append(self._chunk(frame.created, frame.model, "", frame.usage))
        return chunks

    def whole(self, frame: Frame) -> str:
        return (
            f'{{"id":{self.identity},"object":"text_completion","created":{frame.created},"model":{frame.model},'
            f'{FINGERPRINT},"choices":[{self._choice(frame.content, frame.reason)}],{frame.usage}}}'
        )

    def _choice(self, text: str, reason: str) -> str:
        return f'{{"text":{text},"index":0,"finish_reason":{self.finish(reason)}}}'

    def _chunk(self, created: int, model: str, choice: str, usage: str) -> str:
        tail = f",{usage}" if self.includes_usage else ""
        return (
            f'{{"id":{self.identity},"object":"text_completion","created":{created},"choices":[{choice}],'
            f'"model":{model},{FINGERPRINT}{tail}}}'
        )

"""The mapper for a reply, and the gathering of one that is wanted whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.rewrite.v1.chat import ChatMapper
from proxy.rewrite.v1.completion import CompletionMapper

if TYPE_CHECKING:
    from proxy.rewrite.assemble import WholeReply
    from proxy.rewrite.v1.dialect import Dialect
    from proxy.rewrite.v1.mapper import Mapper
    from proxy.rewrite.v1.request import Translated


class WholeCompletion:
    """Gathers the native frames of a reply that the client wants whole; see ``relay.mapping``."""

    __slots__ = ("_mapper", "_whole")

    def __init__(self, whole: WholeReply, mapper: Mapper) -> None:
        self._whole = whole
        self._mapper = mapper

    def add(self, line: bytes) -> None:
        self._whole.add(line)

    def finish(self) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            UpstreamBroken: No readable frame came.
        """
        status, body = self._whole.finish()
        return status, self._mapper.map_body(status, body)


def mapper(asked: Translated, number: int, dialect: Dialect) -> Mapper:
    """The mapper for a reply.

    Args:
        asked: The request.
        number: 0 to 998, drawn for it: Ollama numbers completions like this.
        dialect: The server's.
    """
    if asked.is_chat:
        return ChatMapper(asked, f"chatcmpl-{number}", dialect)
    return CompletionMapper(asked, f"cmpl-{number}")

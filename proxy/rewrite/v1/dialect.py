"""What Ollama's ``/v1`` routes do, as far as it is not the same in every version.

Sources: ``openai/openai.go`` and ``middleware/openai.go`` of Ollama 0.24.0, and their changes up to 0.33.0 (the last
that was read): only 0.32.6 changed the chunks of a chat.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# "openai: match openai's streaming wire format for chat completions".
_ROLE_ONCE_SINCE: Final = (0, 32, 6)
_LAST_READ: Final = (0, 33)


class Dialect(NamedTuple):
    """How one version speaks.

    Attributes:
        role_once: Only the first chunk of a chat names the role, the reason of the end has a chunk of its own, and all
            chunks have the time of the first. Before, every chunk named it, and the last frame's chunk had the reason.
        is_read: All fields that the version knows are known here, so that another one is certain to be ignored by it.
    """

    role_once: bool = False
    is_read: bool = True


def dialect(version: str) -> Dialect:
    """The dialect of a server.

    Args:
        version: As ``/api/version`` tells it. One that is not known, or no number, counts as 0.24's.
    """
    found = _NUMBERS.match(version)
    if found is None:
        return Dialect()
    numbers = tuple(int(number) for number in found.groups())
    return Dialect(role_once=numbers >= _ROLE_ONCE_SINCE, is_read=numbers[:2] <= _LAST_READ)

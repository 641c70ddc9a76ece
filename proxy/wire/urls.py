"""URLs as they may be printed."""

from __future__ import annotations

import re
from typing import Final

# Up to the last "@": whoever has "/" or "@" in a password has written no URL, and must not see it in a log either.
_USER: Final = re.compile(r"(?<=//).*@", re.DOTALL)


def without_user(text: str) -> str:
    """What is taken for a URL, without the user and password in it (RFC 3986, 3.2.1); other texts as they are."""
    return _USER.sub("...@", text)

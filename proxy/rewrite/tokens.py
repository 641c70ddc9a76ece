"""The frames that nearly every line of a reply is: text or thinking of one token, and nothing else.

They are matched as bytes, without reading JSON. Anything that does not match is read; so a frame of a later Ollama with
one field more costs time and nothing else. All groups are possessive: a long text is passed over once.

Source: Ollama 0.24.0, ``api/types.go``: the order of the fields of ``ChatResponse``, ``Message`` and
``GenerateResponse``, of which ``json.Marshal`` leaves out the empty ones.
"""

from __future__ import annotations

import re
from typing import Final

_HEAD = rb'(\{"model":"(?:[^"\\]++|\\.)*+","created_at":"[^"\\]*+"),'
_THINKING = rb'(?:,"thinking":"((?:[^"\\]++|\\.)*+)")?+'

#: Groups: everything before the message, content, thinking or None, the line feed.
CHAT_TOKEN: Final = re.compile(
    _HEAD + rb'"message":\{"role":"assistant","content":"((?:[^"\\]++|\\.)*+)"' + _THINKING + rb'\},"done":false\}(\n?)'
)
#: Groups: everything before the response, response, thinking or None, the line feed.
GENERATE_TOKEN: Final = re.compile(_HEAD + rb'"response":"((?:[^"\\]++|\\.)*+)"' + _THINKING + rb',"done":false\}(\n?)')

"""The exit codes of all commands."""

from __future__ import annotations

from typing import Final

OK: Final = 0
#: It did what it should and found something wrong, or could not go on.
FAILED: Final = 1
#: An option, a setting or a file cannot be used; nothing was begun.
UNUSABLE: Final = 2
#: Ctrl-C, as shells have it: 128 and the number of the signal.
INTERRUPTED: Final = 130

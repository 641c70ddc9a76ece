"""docs/openai.md says of every field of a translated request what becomes of it, and of every mode when it holds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from proxy.rewrite.v1.fields import MESSAGE, REQUESTS
from proxy.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text(encoding="utf-8")
# A switch for looking at prompts, and what is said of a message as a whole.
_UNTOLD = {"_debug_render_only", "role", "content"}


def test_the_page_names_every_field() -> None:
    fields = {name for request in REQUESTS.values() for name in request.fields} | set(MESSAGE.fields)
    assert {name for name in fields - _UNTOLD if name not in PAGE} == set()


def test_the_page_names_every_mode() -> None:
    modes = get_args(Settings.model_fields["v1"].annotation)
    assert len(modes) == 3
    assert all(f"| `{mode}`" in PAGE for mode in modes)

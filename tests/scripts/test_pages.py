from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import Settings, load
from proxy.settings.names import is_part, walk
from scripts.pages import FILES, example_env, settings_page

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("path", FILES)
def test_what_is_derived_from_the_settings_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == FILES[path](), "run scripts/pages"


def test_every_setting_has_its_row_on_the_page() -> None:
    page = settings_page()
    for name in walk():
        dotted = ".".join(part for part in name.path if part != "*")
        if name.field is None:
            assert f"`{name.path[-1]}`" in page
        elif not is_part(name.annotation):
            assert page.count(f"\n| `{dotted}` |") == 1


def test_the_example_files_change_nothing() -> None:
    assert load(ROOT / "pilotlight.example.yaml", {}, {}) == Settings()
    lines = (line.removeprefix("# ") for line in example_env().splitlines())
    variables = dict(line.split("=", 1) for line in lines if line.startswith("PILOTLIGHT_"))
    assert len(variables) > 30
    assert load(None, variables, {}) == Settings()


def test_the_model_in_the_example_file_can_be_kept(tmp_path: Path) -> None:
    text = (ROOT / "pilotlight.example.yaml").read_text(encoding="utf-8")
    kept = tmp_path / "kept.yaml"
    kept.write_text(text.replace("models: []", "models:").replace("\n#  ", "\n  "), encoding="utf-8")
    (model,) = load(kept, {}, {}).models
    assert model.options == {"num_gpu": 99, "num_ctx": 4096}

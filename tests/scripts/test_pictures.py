from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts.pictures import IMAGES, MOST_BYTES, PICTURES, PictureError, compressed, photograph
from tests.e2e.browser import needs_chromium

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_is_there_small_and_on_a_page(name: str) -> None:
    path = IMAGES / f"{name}.png"
    assert path.stat().st_size <= MOST_BYTES
    with Image.open(path) as picture:
        picture.verify()
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    assert any(f"images/{name}.png)" in page.read_text(encoding="utf-8") for page in pages)


def test_a_picture_that_does_not_become_small_is_refused() -> None:
    out = io.BytesIO()
    Image.effect_noise((1200, 1200), 80).save(out, "PNG")
    with pytest.raises(PictureError, match="more than 300,000"):
        compressed(out.getvalue())


def test_an_unknown_picture_ends_with_2_and_the_names_of_those_there_are() -> None:
    command = [sys.executable, "-m", "scripts.pictures", "nothing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: scripts/pictures [report")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_chromium)])
async def test_a_page_is_photographed_as_large_as_was_asked_for(mark: None, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><style>body{background:#2563eb}</style><p style="color:#fff">seen</p>')
    await photograph(page.as_uri(), tmp_path / "page.png", (300, 200), tmp_path)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (300, 200)
        assert picture.convert("RGB").getpixel((299, 199)) == (0x25, 0x63, 0xEB)

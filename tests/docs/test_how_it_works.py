from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")


def test_every_header_of_our_own_is_documented() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    headers = set(re.findall(r"X-Pilotlight-[A-Z][\w-]+", sources))
    assert headers
    assert {header for header in headers if header not in PAGE} == set()


def test_the_way_of_a_request_is_told_in_the_order_in_which_it_is_gone() -> None:
    (drawing,) = re.findall(r"```\n(socket.*?)```", PAGE, re.DOTALL)
    stations = re.findall(r"proxy/([\w/]+)\.py", drawing)
    assert stations[0] == "server/connection"
    assert stations[-1] == "observe/observer"
    assert all((ROOT / "proxy" / f"{station}.py").exists() for station in stations)


def test_every_folder_of_the_package_is_told_and_no_other() -> None:
    (told,) = re.findall(r"## Where things are\n(.*?)\n## ", PAGE, re.DOTALL)
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", told, re.MULTILINE))
    named = set(re.findall(r"`([\w/.]+)`", first_cells))
    assert {path for path in named if not (ROOT / path).exists()} == set()
    folders = {f"proxy/{init.parent.name}" for init in (ROOT / "proxy").glob("*/__init__.py")}
    assert folders - named == set()
    assert {"deploy", "nginx", "scripts", "tests"} <= named


def test_the_readme_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"## More\n(.*)", readme, re.DOTALL)
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f"({page})" not in listed} == set()

"""What the page says is what the file says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from proxy.bench import statistics
from proxy.bench.report import page
from proxy.bench.results import to_json
from tests.bench import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.bench.results import Run, Side

RUN = replace(runs.run(), notes=("Loads could not be counted.",))
UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


class Page(HTMLParser):
    """Elements with what they hold, and the figures.

    Attributes:
        figures: Attributes of each ``data`` element, with its text under an empty name.
        cells: Text of each cell of a table's body that is no heading, less the figures in it.
        tags: Every tag with its attributes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: list[dict[str, str]] = []
        self.cells: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self.figures.append({**{name: value or "" for name, value in attrs}, "": ""})
        if tag == "td":
            self.cells.append("")
        if tag in {"data", "td", "style", "svg", "table"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "svg" in self._open or "style" in self._open:
            return
        self.text += data
        if "data" in self._open:
            self.figures[-1][""] += data
        elif "td" in self._open:
            self.cells[-1] += data


@pytest.fixture(scope="module", params=["workloads", "models"])
def shown(request: pytest.FixtureRequest) -> tuple[Run, str]:
    run = RUN if request.param == "workloads" else runs.models_run()
    return run, page.render(run)


def at(tree: Any, place: str) -> Any:
    for part in place.split("."):
        tree = tree[int(part)] if part.isdigit() else tree[part]
    return tree


def numbers(tree: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, value in items:
            yield from numbers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield place, tree


def test_every_figure_is_that_of_the_file_and_is_shown_to_three_digits(shown: tuple[Run, str]) -> None:
    run, html = shown
    tree = json.loads(to_json(run))
    figures = Page(html).figures
    assert len(figures) > 50
    for figure in figures:
        place = figure["data-place"]
        value = at(tree, place)
        assert float(figure["value"]) == value, place
        number, _, unit = figure[""].partition(" ")
        # The first end of an interval leaves its unit to the second.
        factor = UNITS.get(unit, 1.0)
        if not unit and place.endswith(".low"):
            (high,) = {each[""] for each in figures if each["data-place"] == place[:-3] + "high"}
            factor = UNITS.get(high.partition(" ")[2], 1.0)
        assert float(number.replace(",", "")) * factor == pytest.approx(value, rel=0.0051), place


def test_no_figure_stands_in_a_table_but_from_the_file(shown: tuple[Run, str]) -> None:
    _, html = shown
    rest = [cell.replace("below", "").strip() for cell in Page(html).cells]
    assert [cell for cell in rest if re.search(r"\d", cell)] == []


def test_every_figure_of_the_sides_is_shown() -> None:
    tree = json.loads(to_json(RUN))
    places = {figure["data-place"] for figure in Page(page.render(RUN, {})).figures}
    wanted = {
        place
        for place, _ in numbers(tree)
        if re.match(r"workloads\.\d+\.(?:(?:direct|via)\.(?:figures|loads)|ratio|targets)", place)
        # Of the whole answer the table has mean, P50 and P95 without intervals, and nothing else.
        and ".total." not in place
        and not place.endswith(".call")
    }
    assert wanted - places == set()
    assert any(".total.p95_s" in place for place in places)


def test_the_headline_says_what_got_better_and_what_got_worse() -> None:
    text = " ".join(Page(page.render(RUN, {})).text.split())
    assert "the first token came sooner in 1 of 3 workloads and later in 1." in text
    assert re.search(r"6.84 \S sooner in idle: 70\d ms direct, 10\d ms proxied", text)
    assert re.search(r"0.680 \S later in warm: 10\d ms direct, 15\d ms proxied", text)
    assert "No difference that this run can show: openai:" in text
    assert "Loads could not be counted." in text


def test_a_gain_of_a_few_calls_does_not_hide_that_the_others_became_slower() -> None:
    def side(first_s: float, later_s: float) -> Side:
        calls = [(run, call) for run in range(1, 7) for call in range(1, 8)]
        times = {call: (first_s if call == 1 else later_s) for _, call in calls}
        return statistics.side(
            [runs.sample(times[call] * (1 + run / 100), run=run, call=call) for run, call in calls], loads=0
        )

    run = runs.run((runs.workload("warm", side(9.0, 0.1), side(0.2, 0.2)),))
    text = " ".join(Page(page.render(run, {})).text.split())
    assert "sooner in 1 of 1 workload." in text
    assert "; the median call later: 0.502" in text


@pytest.mark.parametrize(
    ("better", "worse", "headline"),
    [
        (0, 1, "later in 1 of 1 workload, and sooner in none."),
        (0, 0, "This run shows no difference between direct and proxied in the first token."),
    ],
)
def test_a_run_without_gain_says_so(better: int, worse: int, headline: str) -> None:
    side, slower = runs.side(0.1, seed=1, calls=6), runs.side(0.3, seed=2, calls=6)
    run = runs.run((runs.workload("warm", side, slower if worse else side),))
    text = " ".join(Page(page.render(run, {})).text.split())
    assert headline in text
    assert better or "sooner in 1" not in text


def test_the_page_needs_nothing_else_and_allows_nothing_else(shown: tuple[Run, str]) -> None:
    found = Page(shown[1])
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in found.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "form", "base"} == set()
    for tag, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag, value) == ("link", "data:,"), (tag, value)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" style='x' {{ 7*7 }} </style> &amp;"


def test_names_from_outside_are_text() -> None:
    """Every text of a file, because a file can come from anyone."""
    tree = json.loads(to_json(replace(RUN, workloads=RUN.workloads[:1])))

    def hostile(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {name: hostile(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [hostile(part) for part in value]
        return HOSTILE if isinstance(value, str) and name not in {"schema", "verdict"} else value

    from proxy.bench.results import from_json

    run = from_json(json.dumps(hostile(tree)).encode(), "hostile.json")
    html = page.render(run)
    found = Page(html)
    assert {tag for tag, _ in found.tags} & {"script", "img"} == set()
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert "49" not in found.text.replace("{{ 7*7 }}", "")
    for text in (run.model.name if run.model else "", run.workloads[0].description, run.notes[0], run.machine.cpu):
        assert text == HOSTILE
    assert found.text.count(HOSTILE) >= 15


def test_without_matplotlib_the_page_has_its_tables_and_says_how_to_get_pictures() -> None:
    """In a Python of its own, which cannot import it."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; from proxy.bench.report import page; "
        "from tests.bench import runs; print(page.render(runs.run()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    shown = Page(found.stdout)
    assert "pip install matplotlib" in " ".join(shown.text.split())
    assert not any(tag == "figure" for tag, _ in shown.tags)
    assert len(shown.figures) > 100
    assert found.stderr == ""


def test_a_run_of_one_side_compares_nothing() -> None:
    side = runs.side(0.1, seed=1, calls=6)
    run = replace(
        runs.run((runs.workload("warm", side, replace(runs.side(0.1, seed=1, calls=0), samples=())),)), via=None
    )
    text = " ".join(Page(page.render(run, {})).text.split())
    assert "Measured on one side only" in text
    assert "sooner in" not in text
    assert "no difference shown" not in text


def test_an_interrupted_run_without_any_call_has_a_page() -> None:
    side = replace(runs.side(0.1, seed=1, calls=0), samples=())
    run = replace(runs.run((runs.workload("warm", side, side),)), interrupted=True)
    text = " ".join(Page(page.render(run, {})).text.split())
    assert "Stopped early." in text
    assert "Nothing was measured." in " ".join(Page(page.render(runs.run(()), {})).text.split())

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from proxy.bench.report.pictures import COLOURS, MOST_POINTS, draw, drawn_every
from tests.bench import runs

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return draw(runs.run())


def texts(svg: str) -> set[str]:
    return {"".join(element.itertext()).strip() for element in ET.fromstring(svg).iter(f"{SVG}text")}  # noqa: S314


def test_each_workload_has_its_pictures_and_the_run_has_its_own(drawn: dict[str, str]) -> None:
    each = {f"{kind}-{place}" for kind in ("distribution", "parts") for place in range(3)}
    assert set(drawn) == {"overview", "timeline", *each}
    assert {"idle", "warm", "openai", "direct", "proxied"} <= texts(drawn["overview"])
    assert {"queue", "load", "prompt", "proxy", "other"} <= texts(drawn["parts-0"])
    assert {"model was loaded for it", "in no figure", "failed"} <= texts(drawn["timeline"])


def test_pictures_fetch_nothing_carry_no_date_and_use_the_colours_of_the_page(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        assert not re.search(r"<(?:image|script|style|metadata|foreignObject)|<!|@import|url\((?!#)", svg), name
        assert all(target.startswith(f"#{name}-") for target in re.findall(r'href="([^"]*)"', svg)), name
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}, name
        assert {variable for variable in re.findall(r"var\(--(\w+)\)", svg)} <= set(COLOURS)


def test_no_identifier_stands_in_two_pictures(drawn: dict[str, str]) -> None:
    found = [identifier for svg in drawn.values() for identifier in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(found) == len(set(found))


def test_the_same_calls_give_the_same_bytes(drawn: dict[str, str]) -> None:
    again = draw(replace(runs.run(), workloads=runs.run().workloads[:1]))
    assert {name: drawn[name] for name in ("distribution-0", "parts-0")}.items() <= again.items()


def test_names_from_outside_are_text_whatever_they_are() -> None:
    name = '</text><script>alert("#2563eb")</script> $x^2$ url(#a) id="b"'
    side = runs.side(0.1, seed=1, calls=5)
    svg = draw(runs.run((runs.workload(name, side, side),)))["overview"]
    (shown,) = [text for text in texts(svg) if "script" in text]
    assert shown == f"{name[:31]}…"
    assert "<script" not in svg


def test_models_are_drawn_beside_each_other() -> None:
    drawn = draw(runs.models_run(("small", "large")))
    assert set(drawn) == {"models"}
    assert {"small", "large", "tokens per second"} <= texts(drawn["models"])


def test_there_is_no_picture_of_nothing() -> None:
    empty = runs.side(0.1, seed=1, calls=0)
    bare = replace(empty, samples=())
    assert draw(runs.run((runs.workload("w", bare, bare),))) == {}
    assert draw(runs.run(())) == {}


def test_a_timeline_of_many_calls_shows_one_of_so_many() -> None:
    workload = runs.run().workloads[0]
    many = replace(workload, direct=replace(workload.direct, samples=(runs.sample(0.1),) * (2 * MOST_POINTS)))
    assert drawn_every([many]) == 3
    assert drawn_every([workload]) == 1

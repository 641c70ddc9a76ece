"""The page: a template, the run, and its pictures. The template engine escapes everything that comes from outside.

Each figure stands in a ``data`` element that carries the number itself and its place in the JSON file, so that the page
can be checked against the file, and does not work out anything by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
from markupsafe import Markup

from proxy.bench.report import words
from proxy.bench.report.pictures import can_draw, draw, drawn_every
from proxy.bench.results import PARTS, Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.bench.results import Run

_FOLDER: Final = Path(__file__).parent
_HOW_TO_DRAW: Final = "pip install matplotlib"


def render(run: Run, pictures: Mapping[str, str] | None = None) -> str:
    """The whole page, the same for the same run.

    Without matplotlib it has its tables, and a line that says how to get the pictures.

    Args:
        pictures: As ``draw`` makes them, of this run; ``None``: they are drawn.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"listed": words.listed, "standing": words.standing, "standing_of": words.standing_of}
    figures = _Figures(run)
    return environment.get_template("report.html").render(
        run=run,
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        pictures={name: Markup(svg) for name, svg in (draw(run) if pictures is None else pictures).items()},  # noqa: S704 - escaped when drawn
        how_to_draw=None if can_draw() else _HOW_TO_DRAW,
        figure=figures.figure,
        interval=figures.interval,
        estimate=figures.estimate,
        by_standing=words.by_standing(run),
        drawn_every=drawn_every(run.workloads),
        parts=PARTS,
    )


class _Figures:
    """Figures by their place in the file, as ``workloads.0.direct.figures.ttft.max_s``."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def figure(self, place: str, unit: str = "number") -> Markup:
        """One number in its unit; a dash where there is none."""
        found = self._at(place)
        if found is None:
            return Markup('<span class="none">–</span>')  # noqa: RUF001 - a dash
        return self._data(place, float(found), unit, words.FORMATS[unit](found))

    def interval(self, place: str, unit: str = "number") -> Markup:
        """The interval of an estimate, or nothing where it has none."""
        found = self._at(place)
        if not isinstance(found, Estimate) or found.low is None or found.high is None:
            return Markup("")
        low, high = (words.FORMATS[unit](end) for end in (found.low, found.high))
        # "95 to 108 ms": the unit once, where both have the same.
        if low.partition(" ")[2] == high.partition(" ")[2]:
            low = low.partition(" ")[0]
        low = self._data(f"{place}.low", found.low, unit, low)
        high = self._data(f"{place}.high", found.high, unit, high)
        return Markup('<span class="interval">{} to {}</span>').format(low, high)

    def estimate(self, place: str, unit: str = "number") -> Markup:
        """An estimate with its interval; a dash where there is none."""
        if self._at(place) is None:
            return self.figure(place)
        return Markup("{} {}").format(self.figure(f"{place}.value", unit), self.interval(place, unit))

    def _at(self, place: str) -> Any:
        found: Any = self._run
        for part in place.split("."):
            if found is None:
                return None
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        return found

    @staticmethod
    def _data(place: str, value: float, unit: str, text: str) -> Markup:
        return Markup('<data value="{!r}" data-place="{}" data-unit="{}">{}</data>').format(value, place, unit, text)

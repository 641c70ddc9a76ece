"""The pictures of a report, drawn by matplotlib as SVG that stands inside of the page.

Text stays text and takes the page's font. Colours are drawn as the constants below and then become variables of the
page's style, so that one picture suits light, dark and paper. Nothing depends on the time: the same run gives the same
bytes.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
from typing import TYPE_CHECKING, Any, Final

from proxy.bench.report.words import seconds
from proxy.bench.results import PARTS
from proxy.bench.statistics import ttfts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from proxy.bench.results import ModelResult, Parts, Run, Sample, Side, Workload

# Each stands for the variable of its name in style.css, and nothing else is drawn in these.
COLOURS: Final = {
    "direct": "#d97701",
    "via": "#2563eb",
    "ink": "#1f2933",
    "faint": "#8a94a1",
    "rule": "#d8dee6",
    "paper": "#fffffe",
    "band": "#f3f5f8",
    "queue": "#7c3aed",
    "load": "#dc2625",
    "prompt": "#0d9487",
    "proxy": "#2563ea",
    "other": "#9ca3ae",
}
_SIDES: Final = ("direct", "via")
_LABELS: Final = {"direct": "direct", "via": "proxied"}
# A scale of powers where the largest is so many times the smallest: else one side would be a line at the edge.
_WIDE: Final = 8.0
MOST_POINTS: Final = 4000
"""Of the timeline: more would be a file of megabytes in which they cover each other."""


def can_draw() -> bool:
    """Whether matplotlib is installed; it comes with the extra ``bench``."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except ValueError:
        return False


def draw(run: Run) -> dict[str, str]:
    """Every picture of the report that there is something to show in, by its name; without matplotlib none."""
    if not can_draw():
        return {}
    found: dict[str, str] = {}
    measured = [workload for workload in run.workloads if _has_both(workload)]
    if measured:
        height = 0.75 + 0.36 * len(measured)
        found["overview"] = _drawn("overview", (8.6, height), lambda figure: _overview(figure, measured))
    for place, workload in enumerate(run.workloads):
        if ttfts(workload.direct.samples) or ttfts(workload.via.samples):
            name = f"distribution-{place}"
            found[name] = _drawn(name, (5.2, 2.7), functools.partial(_distribution, workload=workload))
        if any(_known_parts(side) for side in (workload.direct, workload.via)):
            name = f"parts-{place}"
            found[name] = _drawn(name, (4.0, 2.7), functools.partial(_parts, workload=workload))
    if any(timed(workload) for workload in run.workloads):
        found["timeline"] = _drawn("timeline", (8.6, 3.3), lambda figure: _timeline(figure, run.workloads))
    models = run.models.models if run.models is not None else ()
    if any(each.ttft_warm or each.ttft_cold for each in models):
        height = 0.9 + 0.42 * len(models)
        found["models"] = _drawn("models", (8.6, height), lambda figure: _models(figure, models))
    return found


def _has_both(workload: Workload) -> bool:
    return workload.direct.figures.ttft is not None and workload.via.figures.ttft is not None


# --- from a figure to what stands in the page


def _drawn(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"pilotlight-{name}",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": COLOURS["ink"],
        "text.parse_math": False,
        "axes.edgecolor": COLOURS["rule"],
        "axes.labelcolor": COLOURS["faint"],
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLOURS["rule"],
        "grid.linewidth": 0.6,
        "xtick.color": COLOURS["rule"],
        "ytick.color": COLOURS["rule"],
        "xtick.labelcolor": COLOURS["faint"],
        "ytick.labelcolor": COLOURS["faint"],
        "legend.frameon": False,
    }
    out = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _embeddable(out.getvalue(), name)


def _embeddable(svg: str, name: str) -> str:
    """Without what belongs to a file of its own, with identifiers that no other picture has."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>|<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    # Tags only: a model may be called like a colour.
    return re.sub(r"<[^>]+>", lambda tag: _at_home(tag[0], name), svg).strip()


def _at_home(tag: str, name: str) -> str:
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    for variable, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag


# --- the pictures


def _seconds_axis(axes: Axes, values: Sequence[float], along: str = "x") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis = axes.xaxis if along == "x" else axes.yaxis
    least, most = min(values), max(values)
    if least > 0 and most / least > _WIDE:
        (axes.set_xscale if along == "x" else axes.set_yscale)("log")
        steps = (1, 2, 5) if most / least < 300 else (1,)
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axis.set_minor_formatter(NullFormatter())
        bounds = (least / 1.4, most * 1.4)
    else:
        axis.set_major_locator(MaxNLocator(6))
        bounds = (0.0, most * 1.08 or 1.0)
    (axes.set_xlim if along == "x" else axes.set_ylim)(*bounds)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    """As elsewhere in the page, less zeros that say nothing on an axis."""
    number, _, unit = seconds(value).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _short(name: str) -> str:
    """A name as it fits beside an axis, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= 32 else f"{name[:31]}…"


def _overview(figure: Figure, workloads: Sequence[Workload]) -> None:
    axes = figure.subplots()
    means = {
        way: [side.figures.ttft.mean_s for w in workloads if (side := getattr(w, way)).figures.ttft is not None]
        for way in _SIDES
    }
    rows = range(len(workloads))
    for row, direct, via in zip(rows, means["direct"], means["via"], strict=True):
        axes.plot([direct.value, via.value], [row, row], color=COLOURS["rule"], linewidth=3, zorder=1)
    # A little apart, so that equal ones do not hide each other.
    for way, apart in zip(_SIDES, (-0.1, 0.1), strict=True):
        values = [mean.value for mean in means[way]]
        for row, mean in zip(rows, means[way], strict=True):
            if mean.low is not None and mean.high is not None:
                axes.plot([mean.low, mean.high], [row + apart] * 2, color=COLOURS[way], linewidth=1.4, zorder=2)
        axes.scatter(values, [row + apart for row in rows], s=44, color=COLOURS[way], zorder=3, label=_LABELS[way])
    _seconds_axis(axes, [mean.value for way in _SIDES for mean in means[way]])
    axes.set_yticks(list(rows), [_short(workload.name) for workload in workloads])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], length=0)
    axes.set_ylim(len(workloads) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("mean time to first token")
    figure.legend(loc="outside upper right", ncols=2)


def _distribution(figure: Figure, workload: Workload) -> None:
    axes = figure.subplots()
    values = {way: sorted(ttfts(getattr(workload, way).samples)) for way in _SIDES}
    for way in _SIDES:
        ordered = values[way]
        if not ordered:
            continue
        share = [100 * place / len(ordered) for place in range(len(ordered) + 1)]
        axes.step([ordered[0], *ordered], share, where="post", color=COLOURS[way], linewidth=1.8, label=_LABELS[way])
        summary = getattr(workload, way).figures.ttft
        axes.scatter(
            [summary.p50_s.value, summary.p95_s.value], [50, 95], s=26, color=COLOURS[way], zorder=3, clip_on=False
        )
    _seconds_axis(axes, [*values["direct"], *values["via"]])
    axes.set_ylim(0, 103)
    axes.set_yticks([0, 50, 95], ["0 %", "50 %", "95 %"])
    axes.set_xlabel("time to first token")
    axes.set_ylabel("calls that had it by then")
    figure.legend(loc="outside upper right", ncols=2)


def _known_parts(side: Side) -> Parts | None:
    parts = side.figures.parts
    return parts if parts is not None and any(getattr(parts, f"{part}_s") for part in PARTS) else None


def _parts(figure: Figure, workload: Workload) -> None:
    axes = figure.subplots()
    widest = 0.0
    for row, way in enumerate(_SIDES):
        parts = _known_parts(getattr(workload, way))
        left = 0.0
        for part in PARTS:
            width = (getattr(parts, f"{part}_s") or 0.0) if parts else 0.0
            axes.barh(row, width, 0.5, left, color=COLOURS[part], label=part if row == 0 else None)
            left += width
        if parts is None:
            axes.text(0, row, " parts not known", va="center", color=COLOURS["faint"])
        widest = max(widest, left)
    axes.set_yticks([0, 1], [_LABELS[way] for way in _SIDES])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], length=0)
    axes.set_ylim(1.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean parts of the first token")
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, widest * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    figure.legend(loc="outside upper center", ncols=5, handlelength=0.9, columnspacing=1.0, handletextpad=0.4)


def timed(workload: Workload) -> list[tuple[str, Sample]]:
    """The calls that the timeline shows as points, with their side; the excluded ones too."""
    return [
        (way, sample)
        for way in _SIDES
        for sample in getattr(workload, way).samples
        if sample.ttft_s is not None and sample.error is None
    ]


def drawn_every(workloads: Sequence[Workload]) -> int:
    """Of how many calls the timeline shows one."""
    return 1 + sum(len(timed(workload)) for workload in workloads) // MOST_POINTS


def _timeline(figure: Figure, workloads: Sequence[Workload]) -> None:
    axes = figure.subplots()
    every = drawn_every(workloads)
    points = [point for workload in workloads for point in timed(workload)[::every]]
    _bands(axes, workloads)
    for way in _SIDES:
        for excluded, cold in ((True, False), (False, False), (False, True)):
            chosen = [
                sample
                for of, sample in points
                if of == way and bool(sample.excluded) == excluded and (excluded or sample.cold == cold)
            ]
            axes.scatter(
                [sample.t_start_s for sample in chosen],
                [sample.ttft_s or 0.0 for sample in chosen],
                s=10 if excluded else 20,
                marker="x" if excluded else "o",
                linewidths=0.8 if excluded else 1.3,
                facecolors=COLOURS["faint"] if excluded else COLOURS["paper"] if cold else COLOURS[way],
                edgecolors=None if excluded else COLOURS[way],
                zorder=2 if excluded else 3,
            )
    _seconds_axis(axes, [sample.ttft_s or 0.0 for _, sample in points], "y")
    failed = [
        s.t_start_s for w in workloads for way in _SIDES for s in getattr(w, way).samples if s.error and not s.excluded
    ]
    axes.scatter(failed, [0.02] * len(failed), marker="^", color=COLOURS["load"], transform=axes.get_xaxis_transform())
    axes.set_xlabel("seconds since the run began")
    axes.set_ylabel("time to first token")
    axes.grid(visible=False, axis="x")
    _timeline_legend(figure)


def _bands(axes: Axes, workloads: Sequence[Workload]) -> None:
    """Behind the points: when each workload ran."""
    spans = []
    for workload in workloads:
        starts = [sample.t_start_s for way in _SIDES for sample in getattr(workload, way).samples]
        if starts:
            spans.append((min(starts), max(starts), workload.name))
    whole = (max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans)) or 1.0
    axes.set_xlim(min(begin for begin, _, _ in spans) - 0.02 * whole, max(end for _, end, _ in spans) + 0.02 * whole)
    slant = any(end - begin < 0.11 * whole for begin, end, _ in spans) and len(spans) > 1
    for place, (begin, end, name) in enumerate(spans):
        if place % 2 == 0:
            axes.axvspan(begin, end, color=COLOURS["band"], zorder=0, linewidth=0)
        axes.annotate(
            _short(name),
            ((begin + end) / 2, 1.0),
            (0, 4),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            rotation=28 if slant else 0,
            rotation_mode="anchor",
            ha="left" if slant else "center",
            color=COLOURS["faint"],
            fontsize=8,
        )


def _timeline_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    looks = (
        ("direct", "o", COLOURS["direct"], COLOURS["direct"]),
        ("proxied", "o", COLOURS["via"], COLOURS["via"]),
        ("model was loaded for it", "o", COLOURS["paper"], COLOURS["faint"]),
        ("in no figure", "x", COLOURS["faint"], COLOURS["faint"]),
        ("failed", "^", COLOURS["load"], COLOURS["load"]),
    )
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=edge, markerfacecolor=face, markersize=5, label=label)
        for label, marker, face, edge in looks
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.1)


def _models(figure: Figure, models: Sequence[ModelResult]) -> None:
    times, speeds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    shown = []
    for row, each in enumerate(models):
        for found, face in ((each.ttft_cold, COLOURS["paper"]), (each.ttft_warm, COLOURS["via"])):
            if found is not None:
                times.scatter([found.mean_s.value], [row], s=52, color=face, edgecolors=COLOURS["via"], zorder=3)
                shown.append(found.mean_s.value)
        if each.ttft_cold is not None and each.ttft_warm is not None:
            ends = [each.ttft_cold.mean_s.value, each.ttft_warm.mean_s.value]
            times.plot(ends, [row, row], color=COLOURS["rule"], linewidth=3, zorder=1)
        speeds.barh(row, each.tokens_per_s.value if each.tokens_per_s else 0.0, 0.5, color=COLOURS["via"])
    _seconds_axis(times, shown)
    times.set_yticks(range(len(models)), [_short(each.model.name) for each in models])
    times.tick_params(axis="y", labelcolor=COLOURS["ink"], length=0)
    times.set_ylim(len(models) - 0.5, -0.5)
    times.set_xlabel("mean time to first token (hollow: the model was loaded for it)")
    speeds.set_xlabel("tokens per second")
    speeds.tick_params(axis="y", length=0)
    for axes in (times, speeds):
        axes.grid(visible=False, axis="y")

"""Two runs beside each other: what has changed between them, as far as they can show it. Pure.

For each workload (or model) and side the durations of both runs give a ratio, before divided by after, with its
interval. Where the interval holds 1, the runs show no difference. A comparison has many rows, and one in twenty
intervals of 95 % is wrong by chance; so the intervals are made wider, until all of them together hold with 95 %
(Bonferroni's correction).

The two runs were made one after the other, and what else has changed in between counts as a change too. The direct side
is the check on that: nothing of a proxy's can change it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

from proxy.bench.statistics import CONFIDENCE, answered, grouped_totals, grouped_ttfts, ratio_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.bench.results import Estimate, Run, Sample
    from proxy.bench.statistics import Groups

Verdict = Literal["faster", "slower", "no difference"]

# What each side of a row is called, for workloads and for models.
DIRECT: Final = "direct"
VIA: Final = "via"
COLD: Final = "cold"
WARM: Final = "warm"

FIRST_TOKEN: Final = "first token"  # noqa: S105 - of an answer
WHOLE_ANSWER: Final = "whole answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row.

    Attributes:
        name: Of the workload or model.
        side: ``direct`` or ``via``; of a model ``cold`` or ``warm``.
        measure: ``first token`` or ``whole answer``.
        before_s, after_s: Means.
        before_calls, after_calls: That these are made of.
        ratio: Of the means, before divided by after: above 1 it has become faster.
    """

    name: str
    side: str
    measure: str
    before_s: float
    after_s: float
    before_calls: int
    after_calls: int
    ratio: Estimate
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rows, and why they might not mean what they seem to.

    Attributes:
        warnings: A sentence each.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    def has(self, verdict: Verdict) -> bool:
        """Whether any row has this verdict."""
        return any(change.verdict == verdict for change in self.changes)


@dataclass(frozen=True, slots=True)
class _Pair:
    name: str
    side: str
    measure: str
    before: Groups[float]
    after: Groups[float]


def compare(before: Run, after: Run) -> Comparison:
    """Set two runs beside each other.

    Returns:
        Rows for what both have measured, in the order of the first; one with too few calls for an interval has the
        verdict ``no difference``, because these runs cannot show any.
    """
    pairs = [pair for pair in _pairs(before, after) if pair.before and pair.after]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    changes = tuple(change for pair in pairs if (change := _change(pair, confidence)) is not None)
    return Comparison(changes=changes, warnings=tuple(_warnings(before, after, changes)))


def _change(pair: _Pair, confidence: float) -> Change | None:
    ratio = ratio_of(pair.before, pair.after, confidence)
    if ratio is None:
        return None
    before, after = ([value for group in groups for value in group] for groups in (pair.before, pair.after))
    return Change(
        name=pair.name,
        side=pair.side,
        measure=pair.measure,
        before_s=fmean(before),
        after_s=fmean(after),
        before_calls=len(before),
        after_calls=len(after),
        ratio=ratio.mean,
        verdict=_verdict(ratio.mean),
    )


def _verdict(ratio: Estimate) -> Verdict:
    if ratio.low is not None and ratio.low > 1:
        return "faster"
    return "slower" if ratio.high is not None and ratio.high < 1 else "no difference"


def _sides(run: Run) -> dict[tuple[str, str], list[Sample]]:
    """The calls that count, by name and side; of models the cold calls apart."""
    found = {}
    for workload in run.workloads:
        found[workload.name, DIRECT] = answered(workload.direct.samples)
        found[workload.name, VIA] = answered(workload.via.samples)
    for each in run.models.models if run.models is not None else ():
        calls = answered(each.samples)
        found[each.model.name, COLD] = [sample for sample in calls if sample.cold]
        found[each.model.name, WARM] = [sample for sample in calls if not sample.cold]
    return found


def _pairs(before: Run, after: Run) -> Iterator[_Pair]:
    old, new = _sides(before), _sides(after)
    for (name, side), samples in old.items():
        others = new.get((name, side), [])
        yield _Pair(name, side, FIRST_TOKEN, grouped_ttfts(samples), grouped_ttfts(others))
        yield _Pair(name, side, WHOLE_ANSWER, grouped_totals(samples), grouped_totals(others))


# --- what makes a comparison doubtful


def _warnings(before: Run, after: Run, changes: Sequence[Change]) -> Iterator[str]:
    yield from _differences("machine", before.machine, after.machine)
    yield from _differences("model", before.model, after.model)
    yield from _differences("direct", before.direct, after.direct)
    yield from _differences("via", before.via, after.via)
    yield from _differences("settings", before.settings, after.settings)
    if before.pilotlight_version != after.pilotlight_version:
        yield _differs("pilotlight_version", before.pilotlight_version, after.pilotlight_version)
    yield from _missing(before, after)
    for which, run in (("first", before), ("second", after)):
        if run.interrupted:
            yield f"the {which} run was stopped early"
    yield from _errors(before, after)
    yield from _few(changes)
    moved = [change.name for change in changes if change.side == DIRECT and change.verdict != "no difference"]
    if moved:
        yield (
            f"the direct side has changed too, in {', '.join(dict.fromkeys(moved))}: then the machine, the load on it, "
            "or Ollama has changed, and not only the proxy"
        )


def _differences(what: str, old: Any, new: Any) -> Iterator[str]:
    """A warning for each field in which two of a kind differ; the workloads have their own."""
    if type(old) is not type(new):
        yield _differs(what, None if old is None else "known", None if new is None else "known")
        return
    for field in fields(old) if old is not None else ():
        values = getattr(old, field.name), getattr(new, field.name)
        if values[0] != values[1] and (what, field.name) != ("settings", "workloads"):
            yield _differs(f"{what}.{field.name}", *values)


def _differs(name: str, old: object, new: object) -> str:
    return f"{name} differs: {_told(old)}, then {_told(new)}"


def _told(value: object) -> str:
    if value is None or value == ():
        return "nothing"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _missing(before: Run, after: Run) -> Iterator[str]:
    old, new = ({name for name, _ in _sides(run)} for run in (before, after))
    for which, names in (("first", old - new), ("second", new - old)):
        if names:
            yield f"only in the {which} run: {', '.join(sorted(names))}"


def _errors(before: Run, after: Run) -> Iterator[str]:
    for name, side, old, new in (
        (one.name, side, getattr(one, side).figures.errors, getattr(two, side).figures.errors)
        for one in before.workloads
        for two in after.workloads
        if one.name == two.name
        for side in (DIRECT, VIA)
    ):
        if old or new:
            yield f"{name}, {side}: {old} calls failed, then {new}; a call that fails is in no figure"


def _few(changes: Sequence[Change]) -> Iterator[str]:
    names = dict.fromkeys(change.name for change in changes if change.ratio.low is None)
    if names:
        yield f"too few calls for an interval: {', '.join(names)}"

"""What samples come to: summaries, rates and ratios, each with its confidence interval. No clock, no chance.

Intervals are percentile bootstrap intervals of 95 %. With few samples these are known to be too narrow, so their tails
are moved outwards as far as Student's t is wider than the normal distribution (the expanded percentile interval of
Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015, section 3.2). Below
``FEWEST`` samples not even their whole range holds the median with 95 %, so there is no interval. Resampling is seeded
with a constant: the same samples always give the same figures.

The calls of one run are no independent samples: the first may wait for a load and the others not, and a disturbance of
the machine falls on all of them. So whole runs are resampled where there are ``FEWEST`` of them. With fewer, single
calls are, as if they were independent: the interval is then too wide where calls differ on purpose, and too narrow
where they were disturbed together.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from proxy.bench.results import PARTS, Estimate, Figures, ModelResult, Parts, Position, Ratio, Side, Summary, Workload
from proxy.observe import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.bench.results import ModelInfo, Sample, Target

T = TypeVar("T")
Groups: TypeAlias = "Sequence[Sequence[T]]"
"""Values in the groups that are resampled whole; the order of neither says anything."""

CONFIDENCE: Final = 0.95
# Why a call of a long prompt is in no figure but the speed of reading.
PROMPT_SPEED: Final = "speed of reading"
FEWEST: Final = 5
"""Runs, or calls, for an interval: the median lies outside of the range of n with a probability of 2 ** (1 - n)."""
_SEED: Final = 20150923
_RESAMPLES: Final = 1000
_FEWEST_RESAMPLES: Final = 200
# Numbers drawn for one interval at most, so that ten thousand samples take seconds and not minutes.
_DRAWN: Final = 200_000
_POSITIONS: Final = (1, 2, 10)


def side(samples: Sequence[Sample], loads: int | None) -> Side:
    """One workload on one side, with what its samples come to.

    Args:
        samples: In the order in which they were sent.
        loads: Of models, during the workload; ``None`` where they could not be counted.
    """
    return Side(samples=tuple(samples), loads=loads, figures=figures(samples))


def workload(
    name: str, description: str, excluded: str, direct: Side, via: Side, targets: Sequence[Target] = ()
) -> Workload:
    """One workload, with the ratio of its sides."""
    ratio = ratio_of(grouped_ttfts(direct.samples), grouped_ttfts(via.samples))
    return Workload(
        name=name,
        description=description,
        excluded=excluded,
        direct=direct,
        via=via,
        ratio=ratio,
        targets=tuple(targets),
    )


def model(
    info: ModelInfo, samples: Sequence[Sample], targets: Sequence[Target] = (), error: str | None = None
) -> ModelResult:
    """One model, with what its samples come to; the targets may need these: see ``dataclasses.replace``."""
    calls = answered(samples)
    cold = [sample for sample in calls if sample.cold]
    warm = [sample for sample in calls if not sample.cold]
    # Short prompts tell more about a call's own cost than about reading, so long ones are preferred.
    long = [sample for sample in samples if sample.excluded == PROMPT_SPEED and sample.error is None]
    return ModelResult(
        model=info,
        samples=tuple(samples),
        load_s=estimate(_grouped(cold, lambda sample: sample.parts.load_s if sample.parts else None), _mean),
        prompt_tokens_per_s=rate(_grouped(long or warm, _read)),
        ttft_cold=summary(grouped_ttfts(cold)),
        ttft_warm=summary(grouped_ttfts(warm)),
        total=summary(grouped_totals(warm)),
        tokens_per_s=rate(_grouped(calls, _generated)),
        targets=tuple(targets),
        error=error,
    )


def figures(samples: Iterable[Sample]) -> Figures:
    """What the samples of one side come to; the excluded ones count for nothing."""
    counted = [sample for sample in samples if not sample.excluded]
    calls = answered(counted)
    return Figures(
        ttft=summary(grouped_ttfts(calls)),
        total=summary(grouped_totals(calls)),
        tokens_per_s=rate(_grouped(calls, _generated)),
        parts=mean_parts(calls),
        positions=_positions(calls),
        calls=len(counted),
        cold=sum(sample.cold for sample in counted),
        errors=len(counted) - len(calls),
    )


def ttfts(samples: Iterable[Sample]) -> list[float]:
    """The first tokens that count, in seconds, in order."""
    return _known(sample.ttft_s for sample in answered(samples))


def grouped_ttfts(samples: Iterable[Sample]) -> Groups[float]:
    """The first tokens that count, in the groups that are resampled whole."""
    return _grouped(answered(samples), lambda sample: sample.ttft_s)


def grouped_totals(samples: Iterable[Sample]) -> Groups[float]:
    """The durations of whole answers that count, in the groups that are resampled whole."""
    return _grouped(answered(samples), lambda sample: sample.total_s)


def _grouped(samples: Iterable[Sample], value: Callable[[Sample], T | None]) -> Groups[T]:
    """What is known of some calls: a group for each run, or for each call where there are too few runs."""
    known = [(sample.run, found) for sample in samples if (found := value(sample)) is not None]
    runs: dict[int, list[T]] = {}
    for run, found in known:
        runs.setdefault(run, []).append(found)
    return list(runs.values()) if len(runs) >= FEWEST else alone(found for _, found in known)


def alone(values: Iterable[T]) -> Groups[T]:
    """Each value a group by itself."""
    return [[value] for value in values]


def answered(samples: Iterable[Sample]) -> list[Sample]:
    """The calls that figures are made of: not excluded, and answered."""
    return [sample for sample in samples if not sample.excluded and sample.error is None]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _generated(sample: Sample) -> tuple[float, float] | None:
    """Tokens after the first with the seconds that they took; the first is the prompt's affair."""
    if sample.tokens < 2 or sample.total_s is None or sample.ttft_s is None or sample.total_s <= sample.ttft_s:
        return None
    return sample.tokens - 1.0, sample.total_s - sample.ttft_s


def _read(sample: Sample) -> tuple[float, float] | None:
    """Tokens of the prompt with the seconds that reading them took."""
    if not sample.prompt_tokens or sample.parts is None or not sample.parts.prompt_s:
        return None
    return float(sample.prompt_tokens), sample.parts.prompt_s


def mean_parts(samples: Iterable[Sample]) -> Parts | None:
    """Each part's mean over the samples that know it; ``None`` where none knows any."""
    known = [sample.parts for sample in samples if sample.parts is not None]
    means = {}
    for part in PARTS:
        values = _known(getattr(parts, f"{part}_s") for parts in known)
        means[f"{part}_s"] = _mean(values) if values else None
    return Parts(**means) if known else None


def _positions(samples: Sequence[Sample]) -> tuple[Position, ...]:
    found = []
    for call in _POSITIONS:
        values = _known(sample.ttft_s for sample in samples if sample.call == call)
        reached = estimate(alone(values), _mean)
        if reached is not None:
            found.append(Position(call=call, ttft_s=reached))
    return tuple(found) if len(found) > 1 else ()


def summary(groups: Groups[float]) -> Summary | None:
    """Durations in seconds; ``None`` of nothing."""
    found = stats.summary(_flat(groups))
    if found is None:
        return None
    names = ("mean_s", "p50_s", "p90_s", "p95_s", "stddev_percent")
    drawn = [stats.summary(again) or found for again in _resamples(groups)]
    estimates = [_interval(found[name], [each[name] for each in drawn], len(groups)) for name in names]
    mean_s, p50_s, p90_s, p95_s, variance_percent = estimates
    return Summary(
        count=int(found["count"]),
        mean_s=mean_s,
        p50_s=p50_s,
        p90_s=p90_s,
        p95_s=p95_s,
        min_s=float(found["min_s"]),
        max_s=float(found["max_s"]),
        variance_percent=variance_percent,
    )


def estimate(groups: Groups[T], figure: Callable[[Sequence[T]], float]) -> Estimate | None:
    """A figure of some values, with its interval; ``None`` of nothing."""
    if not groups:
        return None
    return _interval(figure(_flat(groups)), [figure(again) for again in _resamples(groups)], len(groups))


def rate(groups: Groups[tuple[float, float]]) -> Estimate | None:
    """Amounts with the seconds that each took: all together per second; ``None`` of nothing."""
    return estimate(groups, _rate)


def ratio_of(before: Groups[float], after: Groups[float], confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times longer the first took than the second.

    Args:
        before, after: Durations in seconds, each side resampled by itself.
        confidence: Of the intervals.

    Returns:
        ``None`` where a side is empty or has a duration of zero, by which nothing can be divided.
    """
    old, new = _flat(before), _flat(after)
    if not old or not new or min(*old, *new) <= 0:
        return None
    fewest = min(len(before), len(after))
    drawn = list(_resamples_of_both(before, after)) if fewest >= FEWEST else []
    means, medians = ([figure(old) / figure(new) for old, new in drawn] for figure in (_mean, _p50))
    return Ratio(
        mean=_interval(_mean(old) / _mean(new), means, fewest, confidence),
        p50=_interval(_p50(old) / _p50(new), medians, fewest, confidence),
    )


def _flat(groups: Groups[T]) -> list[T]:
    return [value for group in groups for value in group]


def _resamples(groups: Groups[T]) -> Iterable[list[T]]:
    times = _times(len(_flat(groups))) if len(groups) >= FEWEST else 0
    chance = random.Random(_SEED)  # noqa: S311 - resampling, and it has to be repeatable
    return (_flat(chance.choices(groups, k=len(groups))) for _ in range(times))


def _resamples_of_both(before: Groups[T], after: Groups[T]) -> Iterable[tuple[list[T], list[T]]]:
    times = _times(max(len(_flat(before)), len(_flat(after))))
    chance = random.Random(_SEED)  # noqa: S311 - as above
    for _ in range(times):
        yield tuple(_flat(chance.choices(groups, k=len(groups))) for groups in (before, after))  # type: ignore[misc]


def _times(count: int) -> int:
    """How often so many values are drawn."""
    return max(_FEWEST_RESAMPLES, min(_RESAMPLES, _DRAWN // count))


def _interval(value: float, drawn: Sequence[float], count: int, confidence: float = CONFIDENCE) -> Estimate:
    """The middle of what the resamples came to.

    Args:
        value: The figure itself.
        drawn: The figure of each resample.
        count: Groups that it rests on.
        confidence: Of the interval.
    """
    if count < FEWEST:
        return Estimate(value=value, low=None, high=None)
    ordered = sorted(drawn)
    tail = 100 * _tail(count, confidence)
    # Rounding of the last digit must not put the figure outside of its own interval.
    low, high = stats.percentile(ordered, tail), stats.percentile(ordered, 100 - tail)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _tail(count: int, confidence: float) -> float:
    """The share of resamples on each side that is outside, smaller for few samples."""
    normal = NormalDist()
    wide = _t_quantile(0.5 + confidence / 2, count - 1) * math.sqrt(count / (count - 1))
    return normal.cdf(-wide)


def _t_quantile(probability: float, freedom: int) -> float:
    """Of Student's distribution, within 1 % for ``FEWEST`` samples and more, where 95 % are asked for.

    Source: the expansion in powers of 1/freedom, Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _p50(values: Sequence[float]) -> float:
    return stats.percentile(sorted(values), 50)


def _rate(amounts: Sequence[tuple[float, float]]) -> float:
    return math.fsum(amount for amount, _ in amounts) / math.fsum(seconds for _, seconds in amounts)

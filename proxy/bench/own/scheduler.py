"""The scheduler by itself: what a decision costs, and who waits how long in an hour that is not real.

It is set against the plain queue and against Ollama's own way (``arrivals``), with the same requests for all.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.admission.priority import LABELS, NORMAL, PRIORITIES
from proxy.admission.scheduler import Scheduler, Ticket
from proxy.bench.collector import without_collections
from proxy.bench.own.arrivals import Arrival, AsOllama, FirstCome, Mix, in_turn, mixed, simulate
from proxy.bench.own.costs import Cost, costs_table
from proxy.bench.own.output import tell, write
from proxy.bench.own.table import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.bench.own.arrivals import Outcome, Policy

SEED: Final = 20_240_601
AGEING_S: Final = 30.0
PARALLEL: Final = 4
LOAD_S: Final = 3.0
UNBOUNDED: Final = 1_000_000_000

EMPTY_TARGET_US: Final = 20.0
CROWDED_TARGET_US: Final = 50.0

POLICIES: Final[dict[str, Callable[[int, int], Policy]]] = {
    "Pilotlight": lambda parallel, models: Scheduler(parallel, models, UNBOUNDED, AGEING_S),
    "first come": FirstCome,
    "as Ollama": AsOllama,
}


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the requests of one class waited under one policy, for a slot and for their model."""

    policy: str
    priority: str
    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Hour:
    """What one policy made of all arrivals."""

    policy: str
    loads: int
    ended_s: float
    seconds: float
    waits: list[Waits]


@dataclass(frozen=True, slots=True)
class Scenes:
    """What one policy made of the two scenes.

    Attributes:
        order: Of six requests for A, B, A, B, A, B, with A loaded.
        loads: For these six.
        other_wait_s: Of one request for B beside a steady load on A.
        steady_wait_s: The longest on A.
        steady_loads: In that scene, the first one included.
    """

    policy: str
    order: str
    loads: int
    other_wait_s: float
    steady_wait_s: float
    steady_loads: int


def empty_cost(requests: int) -> Cost:
    """One request after the other, each with a free slot: taken, granted and ended."""
    scheduler = Scheduler(PARALLEL, 1, 256, AGEING_S)
    taken = []
    for nth in range(requests):
        now = nth * 1e-3
        began = time.thread_time_ns()
        ticket = Ticket("a", "a", "client", NORMAL)
        scheduler.on_request(ticket, now)
        scheduler.grants(now)
        scheduler.on_done(ticket, now)
        taken.append(time.thread_time_ns() - began)
    return _cost("empty queue, a request from end to end", taken, EMPTY_TARGET_US)


def crowded_costs(waiting: int, decisions: int) -> list[Cost]:
    """Many wait, of all classes, for three models of which one fits; for each that comes another one ends."""
    scheduler = Scheduler(PARALLEL, 1, UNBOUNDED, AGEING_S)
    chance = random.Random(SEED)  # noqa: S311
    running: deque[Ticket] = deque()
    now = 0.0

    def ticket() -> Ticket:
        weights = chance.choice("abc")
        return Ticket(weights, weights, f"client-{chance.randrange(2_000)}", chance.choice(PRIORITIES))

    while scheduler.queued < waiting:
        now += 0.01
        scheduler.on_request(ticket(), now)
        running += scheduler.grants(now)
    came, ended = [], []
    for _ in range(decisions):
        now += 0.01
        new = ticket()
        began = time.thread_time_ns()
        scheduler.on_request(new, now)
        granted = scheduler.grants(now)
        came.append(time.thread_time_ns() - began)
        running += granted
        done = running.popleft()
        began = time.thread_time_ns()
        scheduler.on_done(done, now)
        granted = scheduler.grants(now)
        ended.append(time.thread_time_ns() - began)
        running += granted
    return [
        _cost(f"{waiting} wait, one comes", came, CROWDED_TARGET_US),
        _cost(f"{waiting} wait, one ends", ended, CROWDED_TARGET_US),
    ]


def _cost(title: str, taken_ns: Sequence[int], target_us: float) -> Cost:
    ordered = sorted(taken_ns)
    return Cost(title, statistics.fmean(ordered) / 1e3, _at(ordered, 0.5) / 1e3, _at(ordered, 0.99) / 1e3, target_us)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def hour(policy: str, arrivals: Sequence[Arrival]) -> Hour:
    """All arrivals under this policy, where one model fits."""
    began = time.perf_counter()
    outcome = simulate(POLICIES[policy](PARALLEL, 1), arrivals, max_loaded=1, load_s=LOAD_S)
    return Hour(policy, outcome.loads, outcome.ended_s, time.perf_counter() - began, list(_waits(policy, outcome)))


def _waits(policy: str, outcome: Outcome) -> Iterable[Waits]:
    for priority, label in zip(PRIORITIES, LABELS, strict=True):
        waits = sorted(started.wait_s for started in outcome.started if started.arrival.priority is priority)
        if waits:
            p50_s, p95_s = _at(waits, 0.5), _at(waits, 0.95)
            yield Waits(policy, label, len(waits), statistics.fmean(waits), p50_s, p95_s, waits[-1])


def scenes(policy: str) -> Scenes:
    """Six requests in turn, and one request beside a steady load: six clients, five minutes."""
    make = POLICIES[policy]
    loaded = Arrival(0.0, "a", "x", NORMAL, 1.0)
    six = in_turn("ababab", at_s=0.5, service_s=1.0, priority=NORMAL)
    outcome = simulate(make(1, 1), [loaded, *six], max_loaded=1, load_s=LOAD_S)
    order = "".join(started.arrival.weights for started in outcome.started[1:]).upper()

    def closed(arrival: Arrival, now: float) -> Arrival | None:
        again = arrival.weights == "a" and now < 300.0
        return Arrival(now, "a", arrival.client, NORMAL, 0.9) if again else None

    steady = [Arrival(0.1 * nth, "a", f"client-{nth}", NORMAL, 0.9) for nth in range(6)]
    other = Arrival(10.0, "b", "other", NORMAL, 0.9)
    crowd = simulate(make(2, 1), [*steady, other], max_loaded=1, load_s=LOAD_S, then=closed)
    return Scenes(
        policy,
        order,
        outcome.loads - 1,
        next(started.wait_s for started in crowd.started if started.arrival is other),
        max(started.wait_s for started in crowd.started if started.arrival.weights == "a"),
        crowd.loads,
    )


def describe(costs: Sequence[Cost], hours: Sequence[Hour], seen: Sequence[Scenes], mix: Mix) -> str:
    """The tables, and what they show."""
    lines = costs_table(costs)
    shares = ", ".join(f"{share:.0%} for {name.upper()}" for name, share in mix.models)
    lines += ["", f"{mix.count} requests in {mix.span_s:g} s ({shares}; one model fits, a load takes {LOAD_S:g} s,"]
    lines += [f"a request {mix.service_s:g} s, {PARALLEL} slots, ageing {AGEING_S:g} s): seconds from arrival until"]
    lines += ["slot and model are there.", ""]
    rows = [("policy", "class", "count", "mean", "p50", "p95", "max", "swaps")]
    for each in hours:
        for number, waits in enumerate(each.waits):
            figures = (f"{value:.2f}" for value in (waits.mean_s, waits.p50_s, waits.p95_s, waits.max_s))
            mean, p50, p95, longest = figures
            loads = "" if number else str(each.loads)
            rows.append((waits.policy, waits.priority, str(waits.count), mean, p50, p95, longest, loads))
    lines += [*table(rows), ""]
    lines += ["Six requests in turn for two models, A loaded, one slot. One request for B beside six clients that keep"]
    lines += ["two slots of A busy for 300 s.", ""]
    lines += table(
        [
            ("policy", "order of the six", "loads", "B waits, s", "A waits at most, s", "loads"),
            *(
                (
                    each.policy,
                    each.order,
                    str(each.loads),
                    f"{each.other_wait_s:.1f}",
                    f"{each.steady_wait_s:.1f}",
                    str(each.steady_loads),
                )
                for each in seen
            ),
        ]
    )
    return "\n".join([*lines, ""])


def run(mix: Mix, *, waiting: int, decisions: int) -> tuple[list[Cost], list[Hour], list[Scenes]]:
    """Measure, and simulate."""
    with without_collections():
        tell("decisions, nothing waits")
        costs = [empty_cost(decisions)]
        tell(f"decisions, {waiting} wait")
        costs += crowded_costs(waiting, decisions)
    arrivals = mixed(mix, SEED)
    hours = []
    for policy in POLICIES:
        tell(f"{mix.count} requests, {policy}")
        hours.append(hour(policy, arrivals))
    return costs, hours, [scenes(policy) for policy in POLICIES]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench scheduler", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    mix = Mix(count=3_000, span_s=108.0) if given.quick else Mix()
    waiting, decisions = (500, 500) if given.quick else (10_000, 20_000)
    costs, hours, seen = run(mix, waiting=waiting, decisions=decisions)
    sys.stdout.write(describe(costs, hours, seen, mix))
    if given.json is not None:
        found = {
            "mix": asdict(mix),
            "costs": [cost.as_json() for cost in costs],
            "hours": [asdict(each) for each in hours],
            "scenes": [asdict(each) for each in seen],
        }
        write(given.json, found)


if __name__ == "__main__":
    main()

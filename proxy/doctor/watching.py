"""What happened to loaded models while ``/api/ps`` was watched. Nothing is asked of Ollama but to list them.

Between two looks, for each model, the first that applies:

1. gone, and its time was up: expired, as it was told to;
2. gone, and another one is there that was not: pushed out by it;
3. gone, and so is everything else: Ollama was started anew, or somebody unloaded all;
4. gone otherwise: unloaded by somebody;
5. there with another context length: loaded anew with other options;
6. there with an earlier end than before: a request's ``keep_alive`` shortened it. Use with the same one only lengthens.
"""

from __future__ import annotations

import enum
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.doctor.facts import FOREVER_S, Observed, ahead_s
from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.doctor.facts import Snapshot
    from proxy.upstream.ollama import RunningModel

# Unloading takes a moment, and the two clocks are only compared to about a second.
_SLACK_S: Final = 1.0


class Kind(enum.Enum):
    """What happened."""

    EXPIRED = "expired"
    EVICTED = "evicted"
    ALL_GONE = "all_gone"
    UNLOADED = "unloaded"
    RELOADED = "reloaded"
    SHORTENED = "shortened"


class Change(NamedTuple):
    """One thing that happened to one model.

    Attributes:
        at: Seconds since 1970 of the look that saw it.
        by: The model that took its place.
        before, after: Context lengths, or how long it was to stay from ``at`` on.
    """

    kind: Kind
    model: str
    at: float
    by: str = ""
    before: float = 0.0
    after: float = 0.0


def changes(watched: Sequence[Snapshot], ahead: float = 0.0) -> list[Change]:
    """All that happened, in order.

    Args:
        watched: Looks, oldest first.
        ahead: What the server's clock is ahead of ours.
    """
    found: list[Change] = []
    before: dict[str, float] = {}
    for earlier, later in itertools.pairwise(watched):
        now = {row.name: _end(row) for row in earlier.running}
        # What has to make room may be given an end of this moment first; the one it had a look before counts.
        ends = {name: max(end, before.get(name, end)) for name, end in now.items()}
        found += _between(earlier, later, ends, ahead)
        before = now
    return found


def _between(earlier: Snapshot, later: Snapshot, ends: dict[str, float], ahead: float) -> Iterator[Change]:
    before = {row.name: row for row in earlier.running}
    after = {row.name: row for row in later.running}
    came = [name for name in after if name not in before]
    for name, row in before.items():
        same = after.get(name)
        if same is None:
            if ends[name] <= later.at + ahead + _SLACK_S:
                yield Change(Kind.EXPIRED, name, later.at)
            elif came:
                yield Change(Kind.EVICTED, name, later.at, by=came[0])
            else:
                yield Change(Kind.UNLOADED if after else Kind.ALL_GONE, name, later.at)
        elif same.context_length != row.context_length and same.context_length and row.context_length:
            yield Change(Kind.RELOADED, name, later.at, before=row.context_length, after=same.context_length)
        elif _end(same) < _end(row) - _SLACK_S:
            now = later.at + ahead
            yield Change(Kind.SHORTENED, name, later.at, before=_end(row) - now, after=_end(same) - now)


def _end(row: RunningModel) -> float:
    return row.expires_unix if row.expires_unix is not None else 0.0


def happened(observed: Observed) -> Outcome:
    """16. What unpinned, pushed out or reloaded models while it was watched."""
    if len(observed.watched) < 2:
        return Skipped("not watched (--watch SECONDS)")
    return [_told(observed, change) for change in changes(observed.watched, ahead_s(observed))]


def _told(observed: Observed, change: Change) -> Finding:
    model, after_s = change.model, change.at - observed.watched[0].at
    when = f"seen {span(after_s)} after the watch began"
    load = observed.load_cost(model)
    figures = {"after_s": round(after_s, 1)}

    def finding(code: str, title: str, evidence: str, cost: str, remedy: str) -> Finding:
        return Finding(
            code, Severity.WARNING, model, title, f"{evidence}; {when}", Basis.MEASURED, cost, remedy, figures
        )

    match change.kind:
        case Kind.EVICTED:
            return finding(
                "evicted",
                f"{model} was pushed out by {observed.called(change.by)}",
                f"/api/ps listed it, then {change.by} in its place, though its time was not up",
                f"the next request for it pushes the other out again; {load}",
                "Make both fit (smaller num_ctx or quantization, OLLAMA_MAX_LOADED_MODELS), or let them take turns: "
                "Pilotlight's queue swaps as seldom as it can (docs/scheduling.md).",
            )
        case Kind.RELOADED:
            return finding(
                "reloaded",
                f"{model} was loaded anew because a request asked for another context",
                f"/api/ps: {change.before:.0f} tokens of context, then {change.after:.0f}",
                f"that request waited for the load, and the next with the old options waits again; {load}",
                "Let every client come through Pilotlight: it gives all of them one set of options.",
            )
        case Kind.SHORTENED:
            stays = "for ever" if change.before > FOREVER_S else f"another {span(max(0.0, change.before))}"
            return finding(
                "shortened",
                f"a request's own keep_alive shortened the stay of {model}",
                f"it was to stay {stays}, then {span(max(0.0, change.after))}",
                f"it is unloaded for everybody that much sooner; {load}",
                "Let the client come through Pilotlight (rewrite.client_keep_alive: ignore is its default), or take "
                "the keep_alive out of its settings.",
            )
        case Kind.EXPIRED:
            return finding(
                "expired",
                f"{model} was unloaded, because its keep_alive was over",
                "/api/ps did not list it any more after its `expires_at`",
                load,
                f"`pilotlight serve --model {model}`, or OLLAMA_KEEP_ALIVE=-1 for the server.",
            )
        case Kind.ALL_GONE | Kind.UNLOADED:
            alone = change.kind is Kind.UNLOADED
            return finding(
                "unloaded",
                f"{model} is gone, before its time and with no other in its place",
                "/api/ps lists others still" if alone else "/api/ps lists nothing any more",
                load,
                "Somebody unloaded it (`ollama stop`, keep_alive 0), or its runner crashed: see Ollama's log."
                if alone
                else "Ollama was started anew, or everything was unloaded: see its log. Pilotlight loads kept models "
                "again.",
            )

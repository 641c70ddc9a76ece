"""Which models do not fit beside each other, as far as the scheduler has to know at once. Pure.

``observation`` judges what became of a model when nothing runs on it or waits for it, which is soon enough for the
keeper. Under load that moment may never come, while the load costs another model its turn, so here:

1. what ``observation`` judged holds;
2. a model that requests run on or wait for is not listed, though it was at the last look or was loaded since: what came
   since, or is being loaded, **displaced** it. It may have been there so shortly that no look ever showed it;
3. a load that a request waits for is still not listed ``patience_s`` after it was first missed, and it is the only
   load: it waits until a model that is in use is idle (server/sched.go: requests for loaded models pass, and a model is
   listed from the beginning of its load), so those are **in its way**;
4. two that are listed at the same time fit, whatever was thought before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

# A load that has room is listed as soon as its memory is laid out; before, Ollama may wait for memory to come back, for
# up to 5 s (``waitForVRAMRecovery``).
MOST_PATIENCE_S: Final = 5.0


class News(NamedTuple):
    """What is new.

    Attributes:
        evictions: Pairs of weights: the one that has to go, and the one that it has to go for.
        fits: Pairs of which the opposite is not believed any more.
    """

    evictions: list[tuple[str, str]]
    fits: list[frozenset[str]]


class Rivals:
    """Remembers from one ``/api/ps`` to the next.

    Args:
        patience_s: How long a load may be missed before it counts as one that waits for room.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._listed: frozenset[str] = frozenset()
        self._own: set[frozenset[str]] = set()
        self._told: frozenset[frozenset[str]] = frozenset()
        self._missed: tuple[str, float] | None = None

    def __repr__(self) -> str:
        return f"<Rivals {len(self._told)} pairs>"

    @property
    def is_missing(self) -> bool:
        """Whether a load is missed, so that another look soon is worth while."""
        return self._missed is not None

    def forget(self) -> None:
        """Ollama was started anew."""
        self._listed = frozenset()
        self._own.clear()
        self._told = frozenset()
        self._missed = None

    def look(
        self,
        listed: frozenset[str],
        used: AbstractSet[str],
        loaded: AbstractSet[str],
        loading: Collection[str],
        wanted: AbstractSet[str],
        judged: frozenset[frozenset[str]],
        now: float,
    ) -> News:
        """Take in what ``/api/ps`` says; all are weights.

        Args:
            listed: What is loaded or being loaded.
            used: Those that requests run on or wait for.
            loaded: Those that a load of ours was for that ended well since the last look.
            loading: Loads of ours under way.
            wanted: Those of them that a request waits for, and that were not there before.
            judged: The pairs that ``observation`` knows of.
            now: Monotonic seconds.
        """
        # A load that has just ended still counts as under way; one that is under way may be for a larger context.
        gone = (self._listed - set(loading) | loaded) - listed
        came = (listed | loaded) - self._listed | set(loading)
        ways = [(lost, by) for lost in sorted(gone & used) for by in sorted(came) if by != lost]  # 2
        ways += self._in_the_way(listed, used, loading, wanted, now)  # 3
        self._listed = listed
        self._own.update(map(frozenset, ways))
        self._own = {pair for pair in self._own if not pair <= listed}  # 4
        before, self._told = self._told, judged | self._own
        named = {frozenset(way): way for way in reversed(ways)}
        evictions = []
        for pair in sorted(self._told - before, key=sorted):
            # Where it was only judged: the one that is not there any more is the one that had to go.
            lost, by = named.get(pair) or sorted(sorted(pair), key=lambda weights: weights in listed)
            evictions.append((lost, by))
        return News(evictions, list(before - self._told))

    def _in_the_way(
        self,
        listed: frozenset[str],
        used: AbstractSet[str],
        loading: Collection[str],
        wanted: AbstractSet[str],
        now: float,
    ) -> list[tuple[str, str]]:
        missed = [weights for weights in loading if weights not in listed]
        if len(missed) != 1 or len(loading) != 1 or missed[0] not in wanted:
            self._missed = None
            return []
        weights = missed[0]
        if self._missed is None or self._missed[0] != weights:
            self._missed = (weights, now)
        if now - self._missed[1] < self.patience_s:
            return []
        return [(other, weights) for other in sorted(listed & used)]

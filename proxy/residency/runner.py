"""One runner: what is known about it.

One per *weights*: Ollama loads one runner per blob, whatever the names that were made from it (v0.24.0,
server/sched.go, ``schedulerModelKey``). Read by everyone, changed by ``runners`` and ``observation`` only.

States of a kept model::

    absent -> loading -> resident -> lost -> loading ...
                 |           |
                 +-> failed  +-> released -> (the next request for it) -> loading
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxy.wire.names import canonical

if TYPE_CHECKING:
    from proxy.residency.prepared import Decided
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import KeptModel

UNRANKED: Final = 1_000_000
"""Importance of models that are not kept: behind all that are."""


class State(enum.StrEnum):
    """Where a model stands; the names that ``/models`` shows."""

    ABSENT = "absent"
    LOADING = "loading"
    RESIDENT = "resident"
    LOST = "lost"
    FAILED = "failed"
    RELEASED = "released"


class Loss(enum.StrEnum):
    """Why a resident model is lost."""

    NONE = ""
    EXPIRED = "expired"
    RESTART = "restart"
    EVICTED = "evicted"
    DISPLACED = "displaced"
    DRIFTED = "drifted"


SETTLED: Final = frozenset({State.RESIDENT, State.FAILED, State.RELEASED})


@dataclass(slots=True, eq=False)
class Runner:
    """What is known about the one runner of some weights. Times are seconds on the monotonic clock.

    Attributes:
        weights: What it is loaded from; ``name:...`` for a kept model that Ollama has not described yet.
        facts: Of the name that it is loaded by; ``None`` until Ollama has described it.
        names: Canonical names that have these weights, as far as they were met.
        kept: The settings of its most important kept name.
        rank: That name's place in the settings; 0 is the most important.
        configured: Runner options that the operator set.
        current: The runner options that every request carries; ``None`` until the first load decides.
        confirmed: Our last load of ``current`` succeeded, and nothing since makes that doubtful.
        expires_at: When Ollama will unload it, as ``/api/ps`` or the end of a request told last.
        keep_alive_s: The last ``keep_alive`` that Ollama was sent for it; ``None`` where it was sent none.
        shown_num_ctx: ``context_length`` in ``/api/ps`` after our own load.
        refused_num_ctx: A growth to this or more did not fit.
        growths: How often ``num_ctx`` grew.
        undo: The set before a growth that has not been judged yet.
        in_flight: Requests that were sent and have not ended.
        waiting: Requests that wait for its load.
        queued: Requests that wait for their turn, and so for no load yet.
        used_at: When a request last began or ended.
        strayed_at: When another set of options was last known or suspected on it (a ``/v1`` call, or seen).
        present: ``/api/ps`` showed it.
        unfit_beside: Name of the more important model that it does not fit beside.
        to_unload: It is loaded though it should not be: it lost a war, or was loaded by us while a client unloaded it.
        tended_at: When a call of the proxy's own for it last began or ended.
        volatile: It vanishes as soon as it is idle, so loading it ahead of a request is for nothing.
        warmed_at: When its prompt cache was last warmed; -inf after a load.
        decided: For each name and the runner options that were asked under it, what this came to, and what it was
            worked out from.
        last_decided: The last of it, and the options themselves, which bodies of one shape have in common.
    """

    weights: str
    facts: ModelFacts | None = None
    names: set[str] = field(default_factory=set)
    kept: KeptModel | None = None
    rank: int = UNRANKED
    configured: dict[str, object] = field(default_factory=dict)
    current: dict[str, object] | None = None
    state: State = State.ABSENT
    reason: str = ""
    loss: Loss = Loss.NONE
    confirmed: bool = False
    expires_at: float = -math.inf
    keep_alive_s: float | None = None
    shown_num_ctx: int | None = None
    size_bytes: int = 0
    vram_bytes: int = 0
    refused_num_ctx: int | None = None
    growths: int = 0
    undo: dict[str, object] | None = None
    in_flight: int = 0
    waiting: int = 0
    queued: int = 0
    used_at: float = -math.inf
    strayed_at: float | None = None
    stray_told: bool = False
    present: bool = False
    seen_at: float = -math.inf
    loaded_at: float = -math.inf
    unfit_beside: str = ""
    to_unload: bool = False
    tended_at: float = -math.inf
    volatile: bool = False
    failures: int = 0
    quick_losses: int = 0
    retry_at: float = -math.inf
    warmed_at: float = math.inf
    decided: dict[tuple[object, ...], Decided] = field(default_factory=dict)
    last_decided: tuple[object, Decided] | None = None
    vram_told: bool = False

    def __repr__(self) -> str:
        return f"<Runner {self.name} {self.state}{' ' + self.loss if self.loss else ''} {self.current}>"

    @property
    def name(self) -> str:
        """The name that it is loaded and shown by."""
        if self.kept is not None:
            return canonical(self.kept.name)
        return self.facts.name if self.facts is not None else self.weights

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or self.waiting > 0

    @property
    def max_num_ctx(self) -> int | None:
        if self.kept is not None and self.kept.max_num_ctx is not None:
            return self.kept.max_num_ctx
        return self.facts.trained_num_ctx if self.facts is not None else None

    @property
    def num_ctx(self) -> int | None:
        """The context that it has, as far as is known."""
        value = (self.current or {}).get("num_ctx")
        return value if isinstance(value, int) else self.shown_num_ctx

    def is_known(self, now: float) -> bool:
        """Whether a request with the current set is certain to find it loaded."""
        return self.confirmed and (self.expires_at > now or self.in_flight > 0)

    def described(self, now: float) -> dict[str, Any]:
        """One row of ``/models``."""
        expires_in_s = self.expires_at - now if self.present else None
        forever = expires_in_s is not None and expires_in_s > 10 * 365 * 86_400
        return {
            "name": self.name,
            "names": sorted(self.names),
            "weights": self.weights,
            "kept": self.kept is not None,
            "state": self.state.value,
            "reason": self.reason,
            "loss": self.loss.value,
            "options": self.current or {},
            "num_ctx": self.shown_num_ctx or self.num_ctx,
            "size_bytes": self.size_bytes,
            "vram_bytes": self.vram_bytes,
            "expires_in_s": None if expires_in_s is None or forever else round(expires_in_s, 1),
            "pinned": forever,
            "in_flight": self.in_flight,
            "waiting": self.waiting + self.queued,
        }

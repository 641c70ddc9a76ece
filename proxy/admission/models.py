"""What is loaded, as far as is believed, and what fits beside what. Pure; belongs to the scheduler.

What Ollama says is loaded is advice: it corrects what is believed of idle models. A model that runs is resident. No
more models are believed resident than can be, and no two rivals, unless both ran when they were seen not to fit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.admission.queues import Queue

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_REMEMBERED_CONFLICTS: Final = 256
# Where the number of models is unknown and nobody tells what is loaded, belief must not grow without end.
_BELIEVED_RESIDENT: Final = 256
_NOBODY: Final[AbstractSet[str]] = frozenset()


@dataclass(slots=True, eq=False)
class Model:
    """A runner as the scheduler knows it; forgotten when it is neither resident nor asked for.

    Attributes:
        name: The name that it was last asked for by, to be shown.
        running: Requests that have a slot.
        waiting: Requests in ``queues``, which has one for each effective class.
        resident: Believed to be loaded; always, while something runs.
        since: When a request made it resident; -inf where it was just found there.
        displaced_at: When it last lost its place to another; -inf: never.
        used_at: When a request last started or ended.
        rivals: The weights of those that it was seen not to fit beside.
    """

    weights: str
    name: str
    running: int = 0
    waiting: int = 0
    resident: bool = False
    since: float = -math.inf
    displaced_at: float = -math.inf
    used_at: float = -math.inf
    rivals: AbstractSet[str] = _NOBODY
    queues: tuple[Queue, Queue, Queue] = field(default_factory=lambda: (Queue(), Queue(), Queue()))

    def waits_up_to(self, effective: int) -> bool:
        """Whether something of this class or a higher one waits for it."""
        return any(queue.count for queue in self.queues[: effective + 1])

    @property
    def best_waiting(self) -> int:
        """The highest class that something waits in; 3: nothing waits."""
        return next((effective for effective, queue in enumerate(self.queues) if queue.count), len(self.queues))


class Models:
    """All models that are resident or asked for.

    Args:
        parallel: Slots for the same weights.
        max_loaded: Different weights that can be loaded at a time; 0: unknown.

    Attributes:
        residents: Those that are believed to be loaded, the one that has been there longest first.
        conflicts: Pairs that were seen not to fit together, the latest last.
    """

    def __init__(self, parallel: int, max_loaded: int) -> None:
        self._parallel = parallel
        self._max_loaded = max_loaded
        self._models: dict[str, Model] = {}
        self._rivals: dict[str, set[str]] = {}
        self.residents: dict[Model, None] = {}
        self.conflicts: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def of(self, weights: str, name: str) -> Model:
        """The model with these weights, made where it is not known."""
        model = self._models.get(weights)
        if model is None:
            model = self._models[weights] = Model(weights, name, rivals=self._rivals.get(weights, _NOBODY))
        return model

    def is_open(self, model: Model) -> bool:
        """Whether another request for it can start without a swap."""
        if model.running >= self._parallel:
            return False
        if not model.resident:
            return self.fits(model)
        return not model.rivals or not any(rival.running for rival in self._rivals_of(model))

    def fits(self, model: Model) -> bool:
        """Whether it can be resident beside what is."""
        if self._max_loaded:
            return len(self.residents) < self._max_loaded
        return not self._has_resident_rival(model)

    def in_the_way(
        self, model: Model, held: AbstractSet[Model], protected: AbstractSet[Model]
    ) -> tuple[tuple[Model, ...] | None, list[Model]]:
        """What loading this model displaces, if that can be done now, and otherwise what has to drain for it.

        Args:
            model: Does not fit beside what is resident.
            held: Models that drain already, for another one.
            protected: Models that must be neither displaced nor drained.
        """
        if self._max_loaded:
            others = [other for other in self.residents if other not in protected]
            idle = [other for other in others if not other.running]
            if idle:
                return (min(idle, key=lambda other: (-other.best_waiting, other.used_at)),), []
            # One is enough. The one that has been there longest stays the same one from event to event.
            running = [other for other in others if other not in held]
            return None, [min(running, key=lambda other: other.since)] if running else []
        rivals = self._rivals_of(model)
        resident = [rival for rival in rivals if rival.resident]
        if any(rival in protected for rival in resident):
            return None, []
        if any(rival.running for rival in resident):
            # Those that are not resident must not become so in the meantime.
            return None, rivals
        return tuple(resident), []

    def start(self, model: Model, now: float) -> None:
        """One of its requests starts; whatever it displaces has been displaced."""
        model.running += 1
        model.used_at = now
        if not model.resident:
            model.resident = True
            model.since = now
            self.residents[model] = None
            if len(self.residents) > _BELIEVED_RESIDENT:
                idle = next((other for other in self.residents if not other.running), None)
                if idle is not None:
                    self._drop(idle)

    def end(self, weights: str, now: float) -> tuple[Model, bool]:
        """One of its requests has ended; whether the model is displaced by that."""
        model = self._models[weights]
        model.running -= 1
        model.used_at = now
        is_displaced = not model.running and self._has_resident_rival(model)
        if is_displaced:
            # Both ran when they were seen not to fit together.
            self.displace(model, now)
        return model, is_displaced

    def displace(self, model: Model, now: float) -> None:
        """An idle model loses its place to another one."""
        model.displaced_at = now
        self._drop(model)

    def forget_unused(self, model: Model) -> None:
        # When it was displaced does not matter without requests that have waited since before.
        if not (model.resident or model.running or model.waiting):
            self._models.pop(model.weights, None)

    def on_resident(self, weights: frozenset[str]) -> None:
        """Believe this of idle models, as far as it can be."""
        for model in [model for model in self.residents if not model.running and model.weights not in weights]:
            self._drop(model)
        found = [self.of(each, each) for each in sorted(weights)]
        for model in sorted(found, key=lambda each: -each.used_at):
            if not model.resident and self.fits(model):
                model.resident = True
                model.since = -math.inf
                self.residents[model] = None
            self.forget_unused(model)

    def on_eviction(self, lost: str, by: str, now: float) -> None:
        """Loading ``by`` pushed out ``lost``; where it is unknown how many fit, these two do not."""
        if not self._max_loaded:
            self._learn(lost, by)
        for model in [self._models[each] for each in (lost, by) if each in self._models]:
            if model.resident and not model.running and (model.weights == lost or self._has_resident_rival(model)):
                self.displace(model, now)

    def on_fit(self, one: str, other: str) -> None:
        """These two were seen loaded side by side after all."""
        pair = (min(one, other), max(one, other))
        if pair in self.conflicts:
            del self.conflicts[pair]
            self._reconcile(pair)

    def on_restart(self) -> None:
        """Forget what is loaded and what does not fit."""
        self.conflicts.clear()
        self._rivals.clear()
        for model in list(self._models.values()):
            model.rivals = _NOBODY
            if model.resident and not model.running:
                self._drop(model)

    def _rivals_of(self, model: Model) -> list[Model]:
        return [self._models[each] for each in model.rivals if each in self._models]

    def _has_resident_rival(self, model: Model) -> bool:
        return bool(model.rivals) and any(rival.resident for rival in self._rivals_of(model))

    def _drop(self, model: Model) -> None:
        model.resident = False
        self.residents.pop(model, None)
        self.forget_unused(model)

    def _learn(self, lost: str, by: str) -> None:
        pair = (min(lost, by), max(lost, by))
        self.conflicts[pair] = None
        self.conflicts.move_to_end(pair)
        if len(self.conflicts) > _REMEMBERED_CONFLICTS:
            self._reconcile(self.conflicts.popitem(last=False)[0])
        for one, other in (pair, pair[::-1]):
            self._rivals.setdefault(one, set()).add(other)
            if one in self._models:
                self._models[one].rivals = self._rivals[one]

    def _reconcile(self, pair: tuple[str, str]) -> None:
        for each, rival in (pair, pair[::-1]):
            self._rivals[each].discard(rival)
            if not self._rivals[each]:
                del self._rivals[each]

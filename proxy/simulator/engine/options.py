"""The options of a request and of a model, and which of them make Ollama load the model again.

Source: Ollama v0.24.0 ``api/types.go`` (``Options``, ``FromMap``, ``DefaultOptions``), ``server/sched.go``
(``needsReload``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonin import GoError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What a runner is loaded with. ``num_gpu`` -1 means: as many layers as fit."""

    num_ctx: int = 4096
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    use_mmap: bool | None = None
    num_thread: int = 0

    def needs_reload(self, asked: RunnerOptions) -> bool:
        """Whether a runner with these options cannot serve a request with those."""
        if asked.num_gpu < 0:
            return replace(self, num_gpu=-1) != replace(asked, num_gpu=-1)
        return self != asked


@dataclass(slots=True)
class Options:
    """All options of one request."""

    num_ctx: int = 4096
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    use_mmap: bool | None = None
    num_thread: int = 0
    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: list[str] = field(default_factory=list)

    def runner(self) -> RunnerOptions:
        """The part that a runner is loaded with."""
        return RunnerOptions(self.num_ctx, self.num_batch, self.num_gpu, self.main_gpu, self.use_mmap, self.num_thread)

    def update(self, given: Mapping[str, object] | None) -> None:
        """Take over given options; unknown ones are passed over, null leaves a value as it is.

        Raises:
            GoError: an option has the wrong type.
        """
        for name, value in (given or {}).items():
            if name in _KINDS and value is not None:
                setattr(self, name, _converted(name, value))


_KINDS: Final = {item.name: str(item.type) for item in fields(Options)}


def _converted(name: str, value: object) -> object:
    kind = _KINDS[name]
    if kind == "int":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GoError(f"option {go_quote(name)} must be of type integer")
        return int(value)
    if kind == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GoError(f"option {go_quote(name)} must be of type float32")
        return float(value)
    if kind == "bool | None":
        if not isinstance(value, bool):
            raise GoError(f"option {go_quote(name)} must be of type boolean")
        return value
    if not isinstance(value, list):
        raise GoError(f"option {go_quote(name)} must be of type array")
    if not all(isinstance(item, str) for item in value):
        raise GoError(f"option {go_quote(name)} must be of an array of strings")
    return list(value)

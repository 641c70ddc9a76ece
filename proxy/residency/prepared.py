"""What residency makes of a request: what it is sent with, and what an application's options come to."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.rewrite import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.rewrite.options import Unified
    from proxy.settings import KeptModel

_NO_OPTIONS: Final[frozenset[str]] = frozenset()
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Prepared(NamedTuple):
    """What residency wants of one request.

    Attributes:
        set_options: Options to put in.
        remove_options: Options to take out.
        keep_alive: JSON value to put in; ``None`` leaves the request's.
        told: For ``X-Pilotlight-Options``; "" where nothing was overridden.
        waited_s: How long the request has waited for a load.
        cold: That load was a real one.
        long_prompts: What to do with a prompt that is longer than the context.
        kept: It is for a kept model.
        avoided: Options for which Ollama would have loaded the model anew.
    """

    set_options: Mapping[str, object] = _NOTHING
    remove_options: frozenset[str] = _NO_OPTIONS
    keep_alive: object | None = None
    told: str = ""
    waited_s: float = 0.0
    cold: bool = False
    long_prompts: str = "cut"
    kept: bool = False
    avoided: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Decided:
    """What an application's options came to, which is the same each time until the runner changes.

    Attributes:
        basis: What it was worked out from; holds while these are the same objects.
        unified: The options.
        told: The same for the client.
        prepared: What the last request of a kept model was sent with; it had this ``keep_alive``, and the model these
            settings.
    """

    basis: tuple[object, ...]
    unified: Unified
    told: str
    prepared: Prepared | None = None
    client_keep_alive: object = None
    prepared_by: KeptModel | None = None

    def is_for(self, keep_alive: object) -> bool:
        """Whether it was prepared for this very ``keep_alive``."""
        return (
            self.prepared is not None
            and self.client_keep_alive == keep_alive
            and type(self.client_keep_alive) is type(keep_alive)
        )


ILL_TYPED: Final = Decided((), options.ILL_TYPED, "")
"""Ollama refuses the options, so the request goes as it came."""

UNTOUCHED: Final = Prepared()
"""Nothing is put in, and nothing taken out."""

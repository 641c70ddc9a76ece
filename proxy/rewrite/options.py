"""The reload guard: one set of runner options for each model, whatever the clients ask.

Ollama restarts a model's runner when a request's runner options differ from those it was loaded with (v0.24.0,
server/sched.go, ``needsReload``). So every request for a model carries the same *current* set. This module decides
which set that is after a request, and what has to be put into that request or taken out of it. It knows no model, no
clock and no state: the current set is handed in and the next one handed back.

Sampling options are looked at for one thing only: a value that Ollama refuses leaves the request as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Policy = Literal["merge", "enforce", "respect"]

# v0.24.0, api/types.go, ``type Runner``: what ``needsReload`` compares.
RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")

# v0.24.0, api/types.go, ``DefaultOptions``. num_ctx is not here: its default depends on the server's environment and
# memory. use_mmap is not either: its default is "not set", which a request cannot express.
SERVER_DEFAULTS: Mapping[str, int] = {"num_batch": 512, "num_gpu": -1, "main_gpu": 0, "num_thread": 0}

# The least num_ctx that Ollama takes by itself unless OLLAMA_CONTEXT_LENGTH says less (v0.24.0, server/routes.go,
# ``Serve``: 4096, 32768 or 262144 by VRAM). Used only until /api/ps has shown the real one.
_LEAST_DEFAULT_NUM_CTX = 4096

# English text has four to five bytes per token, other languages and code fewer.
_BYTES_PER_TOKEN = 3

# v0.24.0, api/types.go, ``type Options``: a JSON number is what Go's int and float32 fields take.
_NUMBERS = frozenset({
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k",
    "repeat_last_n", "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty",
    "frequency_penalty",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unified:
    """What one request's runner options come to.

    Attributes:
        target: The set that the runner has, or is to be loaded with, for this request.
        set: Options to put into the request.
        remove: Options to take out of it.
        overridden: ``(option, asked, used)`` for each option that the client does not get as asked; ``used`` is
            ``None`` where the model keeps a default that is not known here.
        avoided: Options that would have made Ollama load the model again.
        grows: The runner has to be loaded again with a larger ``num_ctx``.
        ill_typed: Ollama refuses the options, so the request goes unchanged; nothing else here is of meaning then.
    """

    target: dict[str, object]
    set: dict[str, object]
    remove: frozenset[str]
    overridden: tuple[tuple[str, object, object], ...] = ()
    avoided: tuple[str, ...] = ()
    grows: bool = False
    ill_typed: bool = False


ILL_TYPED = Unified({}, {}, frozenset(), ill_typed=True)


def unify(
    asked: Mapping[str, object],
    configured: Mapping[str, object],
    current: Mapping[str, object] | None,
    policy: Policy = "merge",
    max_num_ctx: int | None = None,
    refused_num_ctx: int | None = None,
    *,
    parameters: Mapping[str, object] | None = None,
    shown_num_ctx: int | None = None,
    grow_to_at_least: int = 0,
) -> Unified:
    """Decide the runner options of one request.

    Args:
        asked: The client's ``options``, all of them, as JSON values.
        configured: The operator's runner options for the model.
        current: The set that the model was loaded with by the proxy; ``None`` before its first load.
        policy: ``merge`` keeps the current set, and only ``num_ctx`` can grow; ``enforce`` uses the configured
            options only; ``respect`` lets the client's win.
        max_num_ctx: The largest ``num_ctx`` that a client can cause, in tokens; ``None``: no limit.
        refused_num_ctx: A growth to this many tokens or more did not fit in memory and is not tried again.
        parameters: The runner options of the Modelfile of the name that is called. Ollama uses them where the request
            says nothing, so another name's request for the same weights has to say them.
        shown_num_ctx: ``context_length`` as ``/api/ps`` showed it after our own load; what the runner has where the
            current set does not say.
        grow_to_at_least: The least size of a growth, so that a client that asks for a little more each time does not
            reload each time.

    Source: v0.24.0, server/routes.go ``modelOptions``; api/types.go ``FromMap``, for what is refused.
    """
    wanted = asked_runner_options(asked)
    if wanted is None:
        return ILL_TYPED
    own = parameters or {}
    if policy == "respect":
        target = {**configured, **wanted}
        return Unified(target, _missing(target, asked, configured, own), frozenset())
    if policy == "enforce":
        target = dict(current) if current is not None else {**_given(own), **configured}
        return _fitted(target, asked, wanted, configured, own, target.get("num_ctx"), shown_num_ctx, grows=False)

    target = {**_given(own), **wanted, **configured} if current is None else dict(current)
    grows = False
    if "num_ctx" in wanted:
        want = _capped(wanted["num_ctx"], max_num_ctx)
        if current is None:
            # Nothing is loaded yet, so a larger context costs no reload.
            target["num_ctx"] = max(want, _whole(configured.get("num_ctx")))
        else:
            have = _whole(target.get("num_ctx")) or shown_num_ctx or _LEAST_DEFAULT_NUM_CTX
            if want > have and _fits(want, refused_num_ctx):
                grows = True
                generous = max(want, _capped(grow_to_at_least, max_num_ctx))
                target["num_ctx"] = generous if _fits(generous, refused_num_ctx) else want
    return _fitted(target, asked, wanted, configured, own, target.get("num_ctx"), shown_num_ctx, grows=grows)


def grown_num_ctx(have: int, prompt_bytes: int, limit: int | None) -> int:
    """The context for a prompt that did not fit: doubled until it should, up to the limit.

    Args:
        have: The context that was too small, in tokens.
        prompt_bytes: Size of the prompt; a token is three to four bytes of ordinary text, and the answer needs room.
        limit: ``max_num_ctx``; ``None``: no limit.
    """
    want = 2 * have
    while want < prompt_bytes / _BYTES_PER_TOKEN:
        want *= 2
    return min(want, limit) if limit else want


def header_value(unified: Unified) -> str:
    """The overrides as ``X-Pilotlight-Options`` tells them, for instance ``num_ctx=8192; asked=16384``; "" for none."""
    return ", ".join(
        f"{name}={_text(used) if used is not None else 'default'}; asked={_text(asked)}"
        for name, asked, used in unified.overridden
    )


def asked_runner_options(asked: Mapping[str, object]) -> dict[str, object] | None:
    """The client's runner options as Ollama reads them, or ``None`` where it refuses any of the client's options."""
    wanted: dict[str, object] = {}
    for name, value in asked.items():
        # v0.24.0, api/types.go, ``FromMap``: null is passed over, unknown names are logged and passed over.
        if value is None:
            continue
        if not _is_well_typed(name, value):
            return None
        if name in RUNNER_OPTIONS:
            wanted[name] = int(value) if isinstance(value, float) else value
    return wanted


def runner_options(options: Mapping[str, object]) -> dict[str, object]:
    """Those of the options that belong to the runner, as Ollama reads them; ill-typed ones are left out."""
    return {
        name: int(value) if isinstance(value, float) else value
        for name in RUNNER_OPTIONS
        if (value := options.get(name)) is not None and _is_well_typed(name, value)
    }


def neutral(current: Mapping[str, object], parameters: Mapping[str, object]) -> bool:
    """Whether a request without options, such as a ``/v1`` one, runs on the current set without a reload.

    An unset ``num_gpu`` never counts as different (v0.24.0, server/sched.go, ``needsReload``).
    """
    for name in RUNNER_OPTIONS:
        if name == "num_gpu" and name not in parameters:
            continue
        default = SERVER_DEFAULTS.get(name)
        if current.get(name, default) != parameters.get(name, default):
            return False
    return True


def _is_well_typed(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return type(value) is int or (type(value) is float and abs(value) < 2**63)
    if name == "use_mmap":
        return type(value) is bool
    if name == "stop":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return True


def _fitted(
    target: dict[str, object],
    asked: Mapping[str, object],
    wanted: Mapping[str, object],
    configured: Mapping[str, object],
    own: Mapping[str, object],
    num_ctx: object,
    shown_num_ctx: int | None,
    *,
    grows: bool,
) -> Unified:
    """What to change in the request so that it carries the target, and what that overrides."""
    to_set = _missing(target, asked, configured, own)
    # Another name's Modelfile may have put in what the current set lacks: say the default, where it can be said.
    for name in RUNNER_OPTIONS:
        if own.get(name) is not None and name not in target:
            default = shown_num_ctx if name == "num_ctx" else SERVER_DEFAULTS.get(name)
            if default is not None and own[name] != default:
                to_set[name] = default
    used = {**SERVER_DEFAULTS, **target}
    if num_ctx is None and shown_num_ctx is not None:
        used["num_ctx"] = shown_num_ctx
    overridden = tuple((name, value, used.get(name)) for name, value in wanted.items() if used.get(name) != value)
    return Unified(
        target,
        to_set,
        frozenset(name for name in wanted if name not in target and name not in to_set),
        overridden,
        tuple(name for name, value, _ in overridden if _would_reload(name, value, grows=grows)),
        grows,
    )


def _missing(
    target: Mapping[str, object],
    asked: Mapping[str, object],
    configured: Mapping[str, object],
    own: Mapping[str, object],
) -> dict[str, object]:
    """The part of the target that the request does not carry already, by itself or by its Modelfile."""
    return {
        name: value
        for name, value in target.items()
        if asked.get(name) != value and (name in configured or asked.get(name) is not None or own.get(name) != value)
    }


def _would_reload(name: str, asked: object, *, grows: bool) -> bool:
    if name == "num_ctx":
        return not grows
    return not (name == "num_gpu" and isinstance(asked, int) and asked < 0)


def _given(own: Mapping[str, object]) -> dict[str, object]:
    return {name: own[name] for name in RUNNER_OPTIONS if own.get(name) is not None}


def _fits(num_ctx: int, refused_num_ctx: int | None) -> bool:
    return refused_num_ctx is None or num_ctx < refused_num_ctx


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _capped(value: object, limit: int | None) -> int:
    return min(_whole(value), limit) if limit else _whole(value)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

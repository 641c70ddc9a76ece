"""Which text may become a label value.

What must live here: the closed lists, and the rule for the one label whose values come from callers, the model. What it
must not know: metrics. A series once made stays until the process ends, so whoever can invent label values can fill the
memory of the proxy and of Prometheus.

A model's name becomes a label when the configuration, ``/api/tags`` or ``/api/ps`` knows it, when no reply said that it
does not exist, and while fewer than ``limit`` names are in use. Everything else is ``other``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER = "other"
"""Cannot be a model's own label, since a canonical name has a tag."""

LONGEST_NAME = 128
_REMEMBERED = 512

ENDPOINTS = (
    "api_chat", "api_generate", "api_embed", "v1_chat", "v1_completions", "v1_responses", "v1_messages",
    "v1_embeddings",
)  # fmt: skip
EMBEDDING_ENDPOINTS = frozenset({"api_embed", "v1_embeddings"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CODE_CLASSES = ("1xx", "2xx", "3xx", "4xx", "499", "5xx")
DONE_REASONS = ("stop", "length", "load", "unload", "tool_calls", "none", OTHER)
PRIORITIES = ("interactive", "normal", "batch")
CACHES = ("show", "response")
REJECT_REASONS = ("full", "timeout", "rate_limit", "shutdown")
SLOT_STATES = ("busy", "free")
BYPASS_REASONS = ("sampling", "header", "size", "tools", OTHER)
EVICTION_REASONS = ("ttl", "size", "flush")
FALLBACK_RESULTS = ("ok", "failed")
ERROR_KINDS = ("connect", "reset", "timeout", "http_5xx", "protocol", OTHER)
RETRY_OUTCOMES = ("ok", "failed")
CONNECTION_STATES = ("idle", "busy")
PRELOAD_RESULTS = ("ok", "failed")
RELOAD_CAUSES = ("options", "evicted", "restart", "unknown")
MODEL_STATES = ("absent", "loading", "resident", "lost", "failed", "released")
RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", OTHER)
REWRITE_RULES = (*(f"generate_{n}" for n in range(1, 10)), "keep_alive", "options", "v1", OTHER)
REWRITE_ACTIONS = ("applied", "skipped")
OVERHEAD_PHASES = ("request", "first_chunk")
FAILURE_REASONS = ("does_not_fit", "out_of_memory", "missing", "load", OTHER)


def one_of(value: str, allowed: Iterable[str], otherwise: str = OTHER) -> str:
    """The value when the closed list has it."""
    return value if value in allowed else otherwise


def code_class(status: int) -> str:
    """``2xx`` and so on; 499, a client that left, is a class of its own."""
    if status == 499:
        return "499"
    return f"{status // 100}xx" if 100 <= status <= 599 else "5xx"


class ModelLabels:
    """Decides which model names become labels.

    Args:
        configured: Names from the settings. They always have their label, also when they are more than ``limit``.
        limit: How many names may be labels at the same time.
    """

    def __init__(self, configured: Iterable[str] = (), limit: int = 20) -> None:
        self._configured: dict[str, None] = {}
        self._asked_limit = limit
        self._limit = limit
        self._known: set[str] = set()
        self._in_use: dict[str, None] = {}
        self._canonical: dict[str, str] = {}
        self.keep(configured)

    def __repr__(self) -> str:
        return f"<ModelLabels known={len(self._known)} in_use={len(self._in_use)} limit={self._limit}>"

    @property
    def configured(self) -> tuple[str, ...]:
        return tuple(self._configured)

    def of(self, name: str) -> str:
        """The label for a name as a caller wrote it, or ``other``."""
        label = self._canonical.get(name)
        if label is None:
            if len(name) > 2 * LONGEST_NAME:
                return OTHER
            label = canonical(name)
            if len(self._canonical) >= _REMEMBERED:
                self._canonical.clear()
            self._canonical[name] = label
        if label in self._in_use:
            return label
        if label not in self._known or len(self._in_use) >= self._limit:
            return OTHER
        self._in_use[label] = None
        return label

    def keep(self, configured: Iterable[str]) -> list[str]:
        """The settings have these now, and no others.

        A name that they had keeps its label until ``forget``, like that of any other model.

        Returns:
            The labels that are new.
        """
        self._configured = dict.fromkeys(canonical(name) for name in configured)
        added = [label for label in self._configured if label not in self._in_use]
        self._known.update(self._configured)
        self._in_use.update(self._configured)
        self._limit = max(self._asked_limit, len(self._configured))
        return added

    def know(self, names: Iterable[str]) -> None:
        """These exist, says ``/api/tags`` or ``/api/ps``."""
        self._known.update(label for label in map(canonical, names) if _is_fit(label))

    def forget(self, names: Iterable[str]) -> list[str]:
        """These exist no more. Returns the labels whose series are to be removed; configured names keep theirs."""
        gone = [label for label in map(canonical, names) if label not in self._configured]
        self._known.difference_update(gone)
        removed = [label for label in gone if label in self._in_use]
        for label in removed:
            del self._in_use[label]
        return removed


def _is_fit(label: str) -> bool:
    # A lone surrogate would make the whole page unencodable; isprintable() is false for it, for CR, LF, NUL and ESC.
    return 0 < len(label) <= LONGEST_NAME and label.isprintable()

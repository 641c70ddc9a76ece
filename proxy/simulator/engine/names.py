"""Model names as Ollama parses them.

Source: Ollama v0.24.0 ``types/model/name.go``, ``internal/modelref/modelref.go``, ``server/model_resolver.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonin import GoError

_HOST: Final = "registry.ollama.ai"
_NAMESPACE: Final = "library"
_TAG: Final = "latest"
_MISSING: Final = "!MISSING!"
_PARTS: Final = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}


class ModelRequired(GoError):
    """No name was given."""

    def __init__(self) -> None:
        super().__init__("model is required")


class ConflictingSource(GoError):
    """Both ``:local`` and ``:cloud``."""


class UnqualifiedName(GoError):
    """The name has parts that are missing or not allowed."""


@dataclass(frozen=True, slots=True)
class Name:
    """Host, namespace, model and tag."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    def is_valid(self) -> bool:
        """Whether every part is there and made of allowed characters."""
        return all(pattern.fullmatch(str(getattr(self, part))) for part, pattern in _PARTS.items())

    def __str__(self) -> str:
        text = f"{self.host}/" if self.host else ""
        text += f"{self.namespace}/" if self.namespace else ""
        return f"{text}{self.model}:{self.tag}" if self.tag else f"{text}{self.model}"

    @property
    def shortest(self) -> str:
        """The name without default host and namespace."""
        prefix = ""
        if self.host.lower() != _HOST:
            prefix = f"{self.host}/{self.namespace}/"
        elif self.namespace.lower() != _NAMESPACE:
            prefix = f"{self.namespace}/"
        return f"{prefix}{self.model}:{self.tag}"


def parse_name(text: str) -> Name:
    """Parse a name and put in the defaults; the result need not be valid."""
    tag = ""
    if text.rfind(":") > text.rfind("/"):
        text, tag = _cut(text, ":")
    if "/" not in text:
        return _filled("", "", text, tag)
    text, model = _cut(text, "/")
    if "/" not in text:
        return _filled("", text, model, tag)
    text, namespace = _cut(text, "/")
    scheme, separator, host = text.partition("://")
    name = _filled(host if separator else scheme, namespace, model, tag)
    return replace(name, scheme=scheme) if separator else name


def _cut(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or _MISSING, after or _MISSING


def _filled(host: str, namespace: str, model: str, tag: str) -> Name:
    return Name(host or _HOST, namespace or _NAMESPACE, model, tag or _TAG)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name with where it is said to live: "", "local" or "cloud"."""

    original: str
    base: str
    source: str
    name: Name


def _source_of(text: str) -> tuple[str, str]:
    before, colon, suffix = text.rpartition(":")
    if not colon:
        return text, ""
    plain = suffix.strip()
    low = plain.lower()
    if low in ("cloud", "local"):
        return before, low
    if "/" not in plain and low.endswith("-cloud"):
        return f"{before}:{plain[: -len('-cloud')]}", "cloud"
    return text, ""


def parse_reference(raw: str) -> Reference:
    """Parse a name that may carry ``:cloud``, ``-cloud`` or ``:local``.

    Raises:
        ModelRequired, ConflictingSource, UnqualifiedName
    """
    text, base, source = _split(raw)
    return _reference(text, base, source)


def parse_pull_reference(raw: str) -> Reference:
    """The same for pull and delete, where cloud models have their older spelling (``TAG-cloud``).

    Raises:
        ModelRequired, ConflictingSource, UnqualifiedName
    """
    text, base, source = _split(raw)
    if source == "cloud":
        base = f"{base}-cloud" if base.rfind(":") > base.rfind("/") else f"{base}:cloud"
    return _reference(text, base, source)


def _split(raw: str) -> tuple[str, str, str]:
    """The name without blanks around it, without its source, and the source."""
    text = raw.strip()
    if not text:
        raise ModelRequired
    base, source = _source_of(text)
    if source and _source_of(base)[1]:
        raise ConflictingSource(f"use either :local or :cloud, not both: {go_quote(text)}")
    return text, base, source


def _reference(text: str, base: str, source: str) -> Reference:
    name = parse_name(base)
    if not name.is_valid():
        raise UnqualifiedName(f"unqualified name: {name}")
    return Reference(text, base, source, name)

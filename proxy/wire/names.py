"""Model names as Ollama parses them, so that one model has one name here.

Source: Ollama 0.24.0, ``types/model/name.go`` (parts, defaults, what is valid), ``internal/modelref/modelref.go`` (the
``:local`` and ``:cloud`` suffixes) and ``server/routes.go``, ``getExistingName`` (names match without regard to case).
"""

from __future__ import annotations

import functools
import re
from typing import Final

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"

# name.go, isValidPart and isValidLen: ASCII only, a letter, digit or underscore first.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)
# What Go's strings.TrimSpace takes off (unicode.IsSpace); Python's strip() knows four more.
_GO_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_SHORT: Final = 128


def canonical(name: str) -> str:
    """The one spelling of a model name that is used for keys, labels and comparisons.

    Returns:
        ``llama3.2:latest`` for ``Llama3.2``; without the default host and namespace, with the tag, in lower case. A
        name that Ollama refuses comes back trimmed and otherwise as it is. A cloud model keeps its suffix, because it
        is another model than the local one of that name.
    """
    # Longer ones are worked out each time, so that nobody can fill memory with them.
    return _canonical_short(name) if len(name) <= _SHORT else _canonical(name)


def _canonical(name: str) -> str:
    trimmed = name.strip(_GO_SPACE)
    base = trimmed
    colon = trimmed.rfind(":")
    if colon >= 0 and trimmed[colon + 1 :].strip(_GO_SPACE).lower() == "local":
        base = trimmed[:colon]
        if base.rpartition(":")[2].strip(_GO_SPACE).lower() in ("local", "cloud") and ":" in base:
            return trimmed
    parts = _parse(base)
    if parts is None:
        return trimmed
    host, namespace, model, tag = (part.lower() for part in parts)
    if host != _DEFAULT_HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    if namespace != _DEFAULT_NAMESPACE:
        return f"{namespace}/{model}:{tag}"
    return f"{model}:{tag}"


_canonical_short = functools.lru_cache(maxsize=512)(_canonical)


def is_cloud(name: str) -> bool:
    """Whether the name asks for a model in Ollama's cloud: ``name:cloud`` or ``name:tag-cloud``."""
    _, colon, suffix = name.strip(_GO_SPACE).rpartition(":")
    suffix = suffix.strip(_GO_SPACE).lower()
    return bool(colon) and (suffix == "cloud" or (suffix.endswith("-cloud") and "/" not in suffix))


def _parse(name: str) -> tuple[str, str, str, str] | None:
    """Host, namespace, model and tag with the defaults filled in; ``None`` when a part is missing or not valid."""
    tag, host, namespace = _DEFAULT_TAG, _DEFAULT_HOST, _DEFAULT_NAMESPACE
    rest = name
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    if slash:
        rest, slash, namespace = rest.rpartition("/")
        if slash:
            # "https://host/namespace/model": the scheme is not part of the name.
            scheme, mark, after = rest.partition("://")
            host = after if mark else scheme
    valid = (
        _HOST.fullmatch(host) and _NAMESPACE.fullmatch(namespace) and _PART.fullmatch(model) and _PART.fullmatch(tag)
    )
    return (host, namespace, model, tag) if valid else None

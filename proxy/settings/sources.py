"""Where settings come from: defaults < preset < YAML file < environment < flags.

Each source is read into a nested mapping of the model's own names, the later one wins name by name, and the model
judges the whole. Nothing is passed over: an unknown name is refused in the file and in the environment alike, because
a misspelt setting that does nothing is worse than a program that does not start.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from proxy.errors import ConfigError
from proxy.settings import names, presets, rules
from proxy.settings.model import Settings
from proxy.wire.durations import parse_go_duration
from proxy.wire.names import canonical
from proxy.wire.urls import without_user

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX = "PILOTLIGHT_"

# Kubernetes gives every pod variables named after each service; a service called "pilotlight" makes these.
_NOT_OURS = ("PILOTLIGHT_PORT", "PILOTLIGHT_SERVICE_")
# The key that `pilotlight batch` shows; it is no setting of the proxy.
_OF_CLIENTS = "PILOTLIGHT_KEY"

# Ollama's variable, our setting under ``scheduler``, its least value.
_PLACES = {"OLLAMA_NUM_PARALLEL": ("parallel", 1), "OLLAMA_MAX_LOADED_MODELS": ("max_loaded_models", 0)}

_HIDDEN = object()

Tree = dict[str, Any]
Origins = dict[tuple[str, ...], str]


def process_environ() -> Mapping[str, str]:
    """The environment of this process; no other module looks at it."""
    return os.environ


def load(config_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Build the settings from all sources.

    Args:
        config_path: The YAML file, or ``None`` for none. A file that was named must exist.
        environ: Variables such as ``PILOTLIGHT_RELAY__WRITE_STALL_S``; an empty one counts as not set. Lists and groups
            are given whole, as JSON or YAML. Of Ollama's own variables ``OLLAMA_KEEP_ALIVE``, ``OLLAMA_NUM_PARALLEL``
            and ``OLLAMA_MAX_LOADED_MODELS`` are read, by Ollama's rules; ``OLLAMA_HOST`` is not.
        flags: Nested like the file. ``models`` holds further models: those that are not kept already are added.

    Raises:
        ConfigError: Names the field, and the source where that is not plain.
    """
    origins: Origins = {}
    tree: Tree = {}
    if config_path is not None:
        _merge(tree, _read_file(config_path), f"in {config_path}", origins)
    _merge_environ(tree, environ, origins)
    further_models = flags.get("models", ())
    _merge(tree, {name: value for name, value in flags.items() if name != "models"}, "flag", origins)
    _add_models(tree, further_models)
    _fill_keep_alive(tree, environ)
    _fill_places(tree, environ)
    try:
        presets.apply(tree)
    except ValueError as error:
        raise ConfigError("rate_limit.rate_per_s", f"preset {error}") from None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, origins) from None
    rules.refuse_impossible(settings)
    fallback_keys(settings, environ)
    return settings


def fallback_keys(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The keys that fallbacks want to see, by the names of their variables. They are nowhere in the settings.

    Raises:
        ConfigError: Such a variable is not set, or what is in it is no key; names the field and the variable.
    """
    keys: dict[str, str] = {}
    for index, other in enumerate(settings.fallback):
        name = other.key_env
        if not name:
            continue
        key = environ.get(name, "").strip()
        if not key:
            raise ConfigError(f"fallback.{index}.key_env", f"{name} is not set in the environment")
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise ConfigError(f"fallback.{index}.key_env", f"{name} must hold printable ASCII without spaces")
        keys[name] = key
    return keys


# --- the file


class _Loader(yaml.SafeLoader):
    """YAML without the traps that the last of two equal names silently wins and that some texts become dates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be plain text", key.start_mark)
            if key.value in seen:
                problem = f"{key.value!r} stands twice in one group"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# A date would be refused wherever it stood, under a name that the operator never wrote.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_file(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError("--config", f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError("--config", f"cannot read {path}: {error.strerror}") from None
    try:
        tree = _read_yaml(text)
    except ValueError as error:
        raise ConfigError("--config", f"{path} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("--config", f"{path} must hold names and values, such as `listen: 127.0.0.1:11435`")
    return tree


def _read_yaml(text: str) -> Any:
    try:
        # A SafeLoader, which builds plain data only.
        return yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise ValueError(f"{getattr(error, 'problem', None) or 'unreadable'}{where}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _merge(tree: Tree, added: Mapping[Any, Any], source: str, origins: Origins, path: tuple[str, ...] = ()) -> None:
    """Put one source over the others, name by name; a group without values (``relay:``) changes nothing."""
    for key, value in added.items():
        here = (*path, str(key))
        if names.is_group(here) and value is None:
            continue
        if names.is_group(here) and isinstance(value, dict):
            below = tree.setdefault(here[-1], {})
            if isinstance(below, dict):
                _merge(below, value, source, origins, here)
                continue
        tree[here[-1]] = value
        origins[here] = source


# --- the environment


def _merge_environ(tree: Tree, environ: Mapping[str, str], origins: Origins) -> None:
    # Shorter names first: PILOTLIGHT_RELAY (a whole group) is refined by PILOTLIGHT_RELAY__WRITE_STALL_S.
    for variable in sorted(environ, key=lambda name: (name.count("__"), name)):
        upper = variable.upper()
        if not upper.startswith(PREFIX) or upper.startswith(_NOT_OURS) or upper == _OF_CLIENTS:
            continue
        text = environ[variable].strip()
        path = tuple(variable[len(PREFIX) :].lower().split("__"))
        if not names.is_known(path):
            raise ConfigError(variable, _unknown_variable(path))
        if not text:
            continue
        nested: Any = _read_value(variable, path, text)
        for name in reversed(path):
            nested = {name: nested}
        _merge(tree, nested, f"in the environment, {variable}", origins)


def _unknown_variable(path: tuple[str, ...]) -> str:
    for length in range(1, len(path)):
        if names.is_known(path[:length]) and not names.is_group(path[:length]):
            return f"unknown setting; give {PREFIX}{'__'.join(path[:length]).upper()} whole, as JSON"
    near = names.nearest(path)
    return "unknown setting" + (f"; did you mean {PREFIX}{'__'.join(near).upper()}?" if near else "")


def _read_value(variable: str, path: tuple[str, ...], text: str) -> Any:
    if names.is_text(path):
        return text
    if names.is_scalar(path):
        try:
            return json.loads(text)
        except ValueError:
            return text
    try:
        return _read_yaml(text)
    except ValueError as error:
        raise ConfigError(variable, f"is neither JSON nor YAML: {error}") from None


def ollama_variable(environ: Mapping[str, str], name: str) -> str:
    """Trimmed of spaces and quotes, as Ollama does (v0.24.0, envconfig/config.go, ``Var``)."""
    return environ.get(name, "").strip().strip("\"'")


def _fill_keep_alive(tree: Tree, environ: Mapping[str, str]) -> None:
    """Take ``OLLAMA_KEEP_ALIVE`` where no source has said anything else.

    Ollama reads a duration, else whole seconds, else stays with its default (v0.24.0, envconfig/config.go,
    ``KeepAlive``); so what it cannot read is no error here either.
    """
    defaults = tree.setdefault("defaults", {})
    if not isinstance(defaults, dict) or defaults.get("keep_alive") is not None:
        return
    text = ollama_variable(environ, "OLLAMA_KEEP_ALIVE")
    try:
        parse_go_duration(text)
    except ValueError:
        try:
            defaults["keep_alive"] = int(text)
        except ValueError:
            return
    else:
        defaults["keep_alive"] = text


def _fill_places(tree: Tree, environ: Mapping[str, str]) -> None:
    """Take Ollama's own numbers of places where no source has said anything else; compose gives both the same ones.

    Ollama's rule for whole numbers: what it cannot read is its default (v0.24.0, envconfig/config.go, ``Uint``). Its
    ``OLLAMA_NUM_PARALLEL=0`` is 1 (server/sched.go).
    """
    scheduler = tree.setdefault("scheduler", {})
    if not isinstance(scheduler, dict):
        return
    for variable, (name, least) in _PLACES.items():
        text = ollama_variable(environ, variable)
        if text.isascii() and text.isdigit() and len(text) < 5:
            scheduler.setdefault(name, min(1024, max(least, int(text))))


# --- flags


def _add_models(tree: Tree, further: Any) -> None:
    if not further:
        return
    listed = tree.get("models") or []
    if not isinstance(listed, list | tuple):
        return
    kept = {canonical(model["name"]) for model in listed if isinstance(model, dict) and _is_named(model)}
    added: list[Any] = []
    for model in further:
        if canonical(model["name"]) not in kept:
            kept.add(canonical(model["name"]))
            added.append(model)
    tree["models"] = [*listed, *added]


def _is_named(model: dict[str, Any]) -> bool:
    return isinstance(model.get("name"), str)


# --- what went wrong


def _explain(error: ValidationError, origins: Origins) -> ConfigError:
    """The first finding, in a user's words."""
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    kind, value = first["type"], _HIDDEN if _may_hold_key(path) else first["input"]
    if kind == "extra_forbidden":
        near = names.nearest(path)
        text = "unknown setting" + (f"; did you mean {'.'.join(near)}?" if near else "")
    elif kind == "missing":
        text = "is missing"
    elif kind == "value_error":
        text = f"{_short(value)} {first['ctx']['error']}"
    elif kind in {"model_type", "model_attributes_type", "dict_type"}:
        text = f"{_short(value)} must be a group of names and values"
    elif kind in {"tuple_type", "list_type"}:
        text = f"{_short(value)} must be a list"
    else:
        wanted = first["msg"].removeprefix("Input ").replace("should", "must", 1)
        text = f"{_short(value)} {wanted[:1].lower()}{wanted[1:]}"
    source = next((origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), "")
    return ConfigError(".".join(map(_printable, path)), f"{text} ({source})" if source else text)


def _may_hold_key(path: tuple[str, ...]) -> bool:
    """Whoever puts a key where its name or hash belongs must not find it in a log."""
    if path[:1] == ("fallback",):
        return path[2:3] == ("key_env",)
    return path[:1] == ("keys",) and (len(path) < 3 or path[2] in {"name", "hash"})


def _printable(name: str) -> str:
    return name if re.fullmatch(r"[\w:/.-]+", name) else json.dumps(name)


def _short(value: object) -> str:
    if value is _HIDDEN:
        return "(not shown)"
    try:
        text = without_user(json.dumps(value, default=str, ensure_ascii=False))
    except (ValueError, RecursionError):
        return "a value that holds itself"
    return text if len(text) <= 60 else f"{text[:57]}..."

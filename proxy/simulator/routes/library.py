"""What is there and what is loaded: tags, ps, show, copy, delete, version, status.

Source: Ollama v0.24.0 ``server/routes.go``, ``server/images.go`` (``String``), ``parser/parser.go`` (``quote``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from proxy.simulator.api.requests import COPY, DELETE, SHOW
from proxy.simulator.engine.model import Model, load_model
from proxy.simulator.engine.names import (
    ConflictingSource,
    ModelRequired,
    UnqualifiedName,
    parse_name,
    parse_pull_reference,
    parse_reference,
)
from proxy.simulator.golang.clock import NANOSECONDS, go_quote, rfc3339
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.golang.jsonout import GoMap, number
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import options_field, text_field
from proxy.simulator.routes.lookup import INVALID_NAME, refuse_cloud
from proxy.simulator.state import VERSION

if TYPE_CHECKING:
    from proxy.simulator.engine.store import Manifest

_COPILOT = "GitHubCopilotChat/"


async def root(call: Call) -> None:
    """GET and HEAD /."""
    call.sink.response.set_header("Content-Type", "text/plain; charset=utf-8")
    call.sink.response.write(b"Ollama is running")


async def version(call: Call) -> None:
    """GET /api/version."""
    call.sink.json(200, {"version": VERSION})


async def status(call: Call) -> None:
    """GET /api/status."""
    disabled = call.state.environment.no_cloud
    call.sink.json(200, {"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


def _details(manifest: Manifest, parent: str = "") -> dict[str, object]:
    settings = manifest.settings
    return {
        "parent_model": parent,
        "format": settings.get("model_format", ""),
        "family": settings.get("model_family", ""),
        "families": settings.get("model_families"),
        "parameter_size": settings.get("model_type", ""),
        "quantization_level": settings.get("file_type", ""),
    }


async def tags(call: Call) -> None:
    """GET and HEAD /api/tags: the most recently modified first."""
    models = []
    entries = sorted(call.state.store.manifests.items(), key=lambda item: str(item[0]))
    entries.sort(key=lambda item: -(item[1].modified_ns // NANOSECONDS))
    for name, manifest in entries:
        entry: dict[str, object] = {"name": name.shortest, "model": name.shortest}
        for key in ("remote_model", "remote_host"):
            if manifest.settings.get(key):
                entry[key] = manifest.settings[key]
        entry |= {
            "modified_at": rfc3339(manifest.modified_ns),
            "size": manifest.size,
            "digest": manifest.digest,
            "details": _details(manifest),
        }
        models.append(entry)
    call.sink.json(200, {"models": models})


async def ps(call: Call) -> None:
    """GET /api/ps: the longest duration remaining first."""
    runners = list(call.state.scheduler.loaded.values())
    now = time.time_ns()
    ends = {runner: runner.expires_ns or now + runner.keep_alive_ns for runner in runners}
    runners.sort(key=lambda runner: -(ends[runner] // NANOSECONDS))
    models = [
        {
            "name": runner.model.short_name,
            "model": runner.model.short_name,
            "size": runner.size_bytes,
            "digest": runner.model.manifest.digest,
            "details": _details(runner.model.manifest),
            "expires_at": rfc3339(ends[runner]),
            "size_vram": runner.vram_bytes,
            "context_length": runner.context_length,
        }
        for runner in runners
    ]
    call.sink.json(200, {"models": models})


async def show(call: Call) -> None:
    """POST /api/show."""
    request = await call.bind(SHOW)
    raw = text_field(request, "model") or text_field(request, "name")
    if not raw:
        raise Refusal(400, "model is required")
    try:
        reference = parse_reference(raw)
    except UnqualifiedName:
        raise Refusal(400, INVALID_NAME) from None
    except (ConflictingSource, ModelRequired) as error:
        raise Refusal(400, str(error)) from None
    if reference.source == "cloud":
        raise refuse_cloud(call, "remote model details are unavailable")
    try:
        model = load_model(call.state.store, call.state.store.existing(reference.name))
    except GoError as error:
        raise Refusal(500, str(error)) from None
    if model is None:
        raise Refusal(404, f"model '{reference.base}' not found")
    if model.remote_host and call.state.environment.no_cloud:
        raise refuse_cloud(call, "remote model details are unavailable")
    if reference.source == "local" and model.remote_host:
        raise Refusal(404, f"model '{reference.original}' not found")
    answer = _shown(model, request, call.state.store.path_of)
    if call.exchange.head.get("User-Agent").startswith(_COPILOT):
        answer["model_info"] = GoMap({**_mapping(answer["model_info"]), "general.basename": reference.base})
    call.sink.json(200, answer)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _shown(model: Model, request: Mapping[str, object], path_of: object) -> dict[str, object]:
    system = text_field(request, "system") or model.system
    assert callable(path_of)  # noqa: S101 - a method
    layer = model.manifest.first("model")
    blob = path_of(layer.digest) if layer is not None else ""
    parameters = {**model.parameters, **(options_field(request) or {})}
    info = GoMap(model.weights.info) if model.weights is not None else _remote_info(model)
    if request["verbose"] and model.weights is not None:
        info |= model.weights.verbose_info
    answer: dict[str, object] = {
        "license": "\n".join(model.licenses),
        "modelfile": _header(model) + modelfile(model, blob, system, parameters),
        "parameters": "\n".join(_parameter_lines(model.parameters)),
        "template": model.template.text,
        "system": system,
        "details": _details(model.manifest, layer.origin if layer is not None else ""),
        "messages": [{"role": item["Role"], "content": item["Content"]} for item in model.messages],
        "remote_model": model.remote_model,
        "remote_host": model.remote_host,
        "model_info": info,
        "tensors": [dict(tensor) for tensor in model.weights.tensors] if model.weights is not None else [],
        "capabilities": model.capabilities(),
        "modified_at": rfc3339(model.manifest.modified_ns),
        "requires": str(model.manifest.settings.get("requires") or ""),
    }
    always = ("details", "model_info", "modified_at")
    return {name: value for name, value in answer.items() if value or name in always}


def _remote_info(model: Model) -> GoMap:
    settings, info = model.manifest.settings, GoMap()
    if not model.family:
        return info
    info["general.architecture"] = model.family
    if settings.get("base_name"):
        info["general.basename"] = settings["base_name"]
    for key in ("context_length", "embedding_length"):
        if settings.get(key):
            info[f"{model.family}.{key}"] = settings[key]
    return info


def _header(model: Model) -> str:
    return (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {model.short_name}\n\n"
    )


def _plain(value: object) -> str:
    """A parameter as ``%v`` prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value) if isinstance(value, float) else str(value)


def _sharp(value: object) -> str:
    """A parameter as ``%#v`` prints it."""
    return go_quote(value) if isinstance(value, str) else _plain(value)


def _parameter_lines(parameters: Mapping[str, object]) -> list[str]:
    lines = []
    for name in sorted(parameters):
        value = parameters[name]
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{name:<30} {_sharp(item)}")
    return lines


def _quoted(text: str) -> str:
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def modelfile(model: Model, blob: str, system: str, parameters: Mapping[str, object]) -> str:
    """The Modelfile that describes a model."""
    lines = [f"FROM {blob}", f"TEMPLATE {_quoted(model.template.text)}"]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    for key in ("renderer", "parser"):
        value = model.manifest.settings.get(key)
        if value:
            lines.append(f"{key.upper()} {_quoted(str(value))}")
    for name in sorted(parameters):
        held = parameters[name]
        for item in held if isinstance(held, Sequence) and not isinstance(held, str) else [held]:
            lines.append(f"PARAMETER {name} {_quoted(_plain(item))}")
    lines += [f"LICENSE {_quoted(text)}" for text in model.licenses]
    lines += [f"MESSAGE {item['Role']} {_quoted(str(item['Content']))}" for item in model.messages]
    return "\n".join(lines) + "\n"


async def copy(call: Call) -> None:
    """POST /api/copy."""
    request = await call.bind(COPY)
    source_text, target_text = text_field(request, "source"), text_field(request, "destination")
    source = parse_name(source_text)
    if not source.is_valid():
        raise Refusal(400, f"source {go_quote(source_text)} is invalid")
    target = parse_name(target_text)
    if not target.is_valid():
        raise Refusal(400, f"destination {go_quote(target_text)} is invalid")
    store = call.state.store
    if not store.copy(store.existing(source), store.existing(target)):
        raise Refusal(404, f"model {go_quote(source_text)} not found")


async def delete(call: Call) -> None:
    """DELETE /api/delete."""
    request = await call.bind(DELETE)
    raw = text_field(request, "model") or text_field(request, "name")
    try:
        reference = parse_pull_reference(raw)
    except UnqualifiedName:
        raise Refusal(400, f"name {go_quote(raw)} is invalid") from None
    except GoError as error:
        raise Refusal(400, str(error)) from None
    if not call.state.store.remove(call.state.store.existing(reference.name)):
        raise Refusal(404, f"model '{raw}' not found")

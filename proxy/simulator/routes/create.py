"""POST /api/create (Ollama v0.24.0 ``server/create.go``). Only models made from others can be created: there is no
reader of model files here, and files are refused as Ollama refuses what is no model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace

from proxy.simulator.api.requests import CREATE
from proxy.simulator.engine.model import parse_model_template
from proxy.simulator.engine.names import Name, parse_name, parse_reference
from proxy.simulator.engine.store import MEDIA, InvalidDigest, Layer, normal_digest
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonbind import STRING, Slice, unmarshal
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import list_field, text_field
from proxy.simulator.routes.lookup import INVALID_NAME
from proxy.simulator.routes.transfer import Failed, Progress, pulling, report

Request = Mapping[str, object]
# Types and how large the result is, about (fs/ggml/type.go, ParseFileType).
_QUANTIZATIONS = {"F32": 2.0, "F16": 1.0, "Q4_K_S": 0.29, "Q4_K_M": 0.31, "Q8_0": 0.53}
_RELATIVE = re.compile(r"(?!/)(?!.*(^|/)(\.\.?|)(/|$)).+|\.")


class _Rejected(Exception):
    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.failed = Failed(text, status)


async def create(call: Call) -> None:
    """Make a model out of another one."""
    request = await call.bind(CREATE)
    _check_files(request)
    name = parse_name(text_field(request, "model") or text_field(request, "name"))
    if not name.is_valid():
        raise Refusal(400, INVALID_NAME)
    name = call.state.store.existing(name)
    await report(call, _creating(call, request, name), stream=request["stream"] is not False)


def _mapping(request: Request, name: str) -> Mapping[str, object]:
    value = request[name]
    return value if isinstance(value, Mapping) else {}


def _check_files(request: Request) -> None:
    for path, digest in _mapping(request, "files").items():
        if not _RELATIVE.fullmatch(path):
            raise Refusal(400, "file path must be relative")
        if not digest:
            raise Refusal(400, str(InvalidDigest()))
    if any(not digest for digest in _mapping(request, "adapters").values()):
        raise Refusal(400, str(InvalidDigest()))


async def _creating(call: Call, request: Request, name: Name) -> Progress:
    try:
        if request["from"]:
            settings: dict[str, object] = {}
            layers: list[Layer] = []
            async for item in _base(call, request, settings, layers):
                yield item
                if isinstance(item, Failed):
                    return
        elif request["files"] is not None:
            for progress in _from_files(call, request):
                yield progress
            return
        else:
            raise _Rejected("neither 'from' or 'files' was specified", 400)
        if request["adapters"] is not None and "remote_host" not in settings:
            raise _Rejected("unknown type", 400)
        for item in _quantized(call, request, settings, layers):
            yield item
        layers = _layers(call, request, layers)
        _override(request, settings)
    except _Rejected as rejected:
        yield rejected.failed
        return
    for layer in layers:
        if layer.status:
            yield {"status": layer.status}
    yield {"status": "writing manifest"}
    call.state.store.write(name, layers, settings)
    yield {"status": "success"}


async def _base(call: Call, request: Request, settings: dict[str, object], layers: list[Layer]) -> Progress:
    """The layers and settings of the model that this one is made from, filled in."""
    try:
        reference = parse_reference(text_field(request, "from"))
    except GoError:
        raise _Rejected(INVALID_NAME, 400) from None
    host = text_field(request, "remote_host")
    if host or reference.source == "cloud":
        settings |= {"model_format": "", "model_family": "", "model_families": None, "model_type": "", "file_type": ""}
        settings |= {"remote_host": host or "https://ollama.com:443", "remote_model": reference.base}
        return
    store = call.state.store
    manifest = store.find(reference.name)
    if manifest is None:
        async for item in pulling(call, reference.name):
            yield item
            if isinstance(item, Failed):
                return
        manifest = store.find(reference.name)
    if manifest is None:
        raise _Rejected("file does not exist")
    settings |= manifest.settings
    layers += [store.reuse(layer, reference.name.shortest) for layer in manifest.layers]


def _from_files(call: Call, request: Request) -> list[dict[str, object] | Failed]:
    files = _mapping(request, "files")
    names = list(files)
    if not names or not names[0].endswith((".safetensors", ".gguf")):
        return [Failed("unknown type", 400)]
    if names[0].endswith(".safetensors"):
        return [{"status": "converting model"}, Failed("open config.json: no such file or directory")]
    begun: dict[str, object] = {"status": "parsing GGUF"}
    try:
        digest = normal_digest(str(files[names[0]]))
    except InvalidDigest as error:
        return [begun, Failed(str(error))]
    if digest not in call.state.store.blobs:
        return [begun, Failed(f"open {call.state.store.path_of(digest)}: no such file or directory")]
    return [begun, Failed("supplied file was not in GGUF format", 400)]


def _quantized(
    call: Call, request: Request, settings: dict[str, object], layers: list[Layer]
) -> list[dict[str, object]]:
    """Smaller weights in the place of the given ones, and what is told about making them."""
    wanted = (text_field(request, "quantize") or text_field(request, "quantization")).upper()
    held = settings.get("file_type")
    if not wanted:
        return []
    if wanted not in _QUANTIZATIONS:
        supported = ", ".join(_QUANTIZATIONS)
        raise _Rejected(f"unsupported quantization type {wanted} - supported types are {supported}")
    if held not in ("F16", "BF16", "F32"):
        raise _Rejected("quantization is only supported for F16, BF16 and F32 models")
    if held == wanted:
        return []
    told: list[dict[str, object]] = []
    for index, layer in enumerate(layers):
        weights = call.state.store.blobs[layer.digest].weights if layer.media_type == f"{MEDIA}model" else None
        if weights is None:
            continue
        digest = "sha256:" + hashlib.sha256(f"{layer.digest} {wanted}".encode()).hexdigest()
        size = int(weights.size_bytes * _QUANTIZATIONS[wanted])
        call.state.store.add_weights(replace(weights, digest=digest, size_bytes=size, quantization=wanted))
        layers[index] = Layer(layer.media_type, digest, size, status=f"creating new layer {digest}")
        line: dict[str, object] = {"status": f"quantizing {held} model to {wanted}", "digest": "0" * 19}
        told += [{**line, "total": layer.size, "completed": layer.size}, {"status": "verifying conversion"}]
    settings["file_type"] = wanted
    return told


def _without(layers: list[Layer], kind: str) -> list[Layer]:
    return [layer for layer in layers if layer.media_type != MEDIA + kind]


def _layers(call: Call, request: Request, layers: list[Layer]) -> list[Layer]:
    store = call.state.store
    template, system = text_field(request, "template"), text_field(request, "system")
    if template:
        try:
            parse_model_template(template)
        except GoError as error:
            raise _Rejected(f"template error: {error}", 400) from None
        layers = [*_without(layers, "template"), store.layer(template.encode(), "template")]
    if system:
        layers = [*_without(layers, "system"), store.layer(system.encode(), "system")]
    layers = layers + [store.layer(text.encode(), "license") for text in _licenses(request["license"])]
    parameters = dict(_mapping(request, "parameters"))
    for layer in layers:
        if layer.media_type == f"{MEDIA}params":
            parameters = {**json.loads(store.content(layer)), **parameters}
    if parameters:
        text = f"{jsonout.marshal(jsonout.as_go_map(parameters))}\n"
        layers = [*_without(layers, "params"), store.layer(text.encode(), "params")]
    messages = list_field(request, "messages")
    if messages:
        shown = [_message(item) for item in messages if isinstance(item, Mapping)]
        layer = store.layer(f"{jsonout.marshal(shown)}\n".encode(), "messages")
        layers = [*_without(layers, "messages"), layer]
    return layers


def _message(message: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in message.items() if value or name in ("role", "content")}


def _licenses(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    try:
        texts = unmarshal(jsonout.marshal(value).encode(), Slice(STRING))
    except GoError as error:
        raise _Rejected(str(error)) from None
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _override(request: Request, settings: dict[str, object]) -> None:
    for name in ("renderer", "parser", "requires"):
        if request[name]:
            settings[name] = request[name]
    info = _mapping(request, "info")
    capabilities = info.get("capabilities")
    if isinstance(capabilities, list):
        settings["capabilities"] = [name for name in capabilities if isinstance(name, str)]
    if "model_family" in info:
        settings["model_family"] = info["model_family"]
        settings["model_families"] = [info["model_family"]]

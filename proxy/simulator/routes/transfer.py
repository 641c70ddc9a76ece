"""POST /api/pull and /api/push. Pulls come from the profile's own library; nothing leaves the machine.

Source: Ollama v0.24.0 ``server/routes.go`` (``PullHandler``, ``waitForStream``), ``server/images.go`` (``PullModel``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from proxy.simulator.api.requests import PULL, PUSH
from proxy.simulator.engine.names import (
    ConflictingSource,
    ModelRequired,
    Name,
    UnqualifiedName,
    parse_name,
    parse_pull_reference,
)
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.generating import text_field
from proxy.simulator.routes.lookup import INVALID_NAME

_TICK_S = 0.06  # download.go: how often progress is told


@dataclass(slots=True)
class Failed:
    """The last thing a transfer reports."""

    text: str
    status: int = 500


Progress = AsyncIterator[dict[str, object] | Failed]


async def report(call: Call, progress: Progress, *, stream: bool) -> None:
    """Tell progress line by line, or only how it ended."""
    if not stream:
        call.sink.response.set_header("Content-Type", "application/json")
        latest: dict[str, object] = {"status": ""}
        async for item in progress:
            if isinstance(item, Failed):
                raise Refusal(item.status, item.text)
            latest = item
        call.sink.json(200, latest)
        return
    call.sink.begin_stream()
    async for item in progress:
        if isinstance(item, Failed):
            call.sink.error(item.status, item.text)
            return
        call.sink.line(item)
        await call.exchange.drain()


async def pull(call: Call) -> None:
    """POST /api/pull."""
    request = await call.bind(PULL)
    raw = text_field(request, "model") or text_field(request, "name")
    try:
        reference = parse_pull_reference(raw)
    except ConflictingSource as error:
        raise Refusal(400, str(error)) from None
    except (ModelRequired, UnqualifiedName):
        raise Refusal(400, INVALID_NAME) from None
    name = call.state.store.existing(reference.name)
    await report(call, pulling(call, parse_name(name.shortest)), stream=request["stream"] is not False)


async def pulling(call: Call, name: Name) -> Progress:
    """The lines of a pull."""
    yield {"status": "pulling manifest"}
    library, store = call.state.environment.library, call.state.store
    manifest = library.find(library.existing(name)) if library is not None else None
    if manifest is None:
        where = f"https://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        if library is None:
            text = f'pull model manifest: Get "{where}": dial tcp: lookup {name.host}: no such host'
        else:
            text = "pull model manifest: file does not exist"
        yield Failed(text)
        return
    assert library is not None  # noqa: S101 - the manifest came from it
    for layer in (*manifest.layers, manifest.config):
        line: dict[str, object] = {"status": f"pulling {layer.digest[7:19]}", "digest": layer.digest}
        line["total"] = layer.size
        done = layer.size if layer.digest in store.blobs else 0
        while done < layer.size:
            passed = await call.state.pace.spend(_TICK_S)
            step = max(passed * call.state.environment.pull_bytes_per_s * call.state.pace.speed, layer.size / 50)
            done = min(layer.size, done + max(1, int(step)))
            yield {**line, "completed": done}
        if layer.digest in store.blobs:
            yield {**line, "completed": layer.size} if layer.size else line
        store.blobs.setdefault(layer.digest, library.blobs[layer.digest])
    for status in ("verifying sha256 digest", "writing manifest"):
        yield {"status": status}
    store.manifests[store.existing(name)] = manifest
    yield {"status": "success"}


async def push(call: Call) -> None:
    """POST /api/push: there is nowhere to push to."""
    request = await call.bind(PUSH)
    raw = text_field(request, "model") or text_field(request, "name")
    if not raw:
        raise Refusal(400, "model is required")
    await report(call, _pushing(call, parse_name(raw)), stream=request["stream"] is not False)


async def _pushing(call: Call, name: Name) -> Progress:
    store = call.state.store
    name = parse_name(store.existing(name).shortest)
    yield {"status": "retrieving manifest"}
    manifest = store.find(name)
    if manifest is None:
        yield {"status": "couldn't retrieve manifest"}
        yield Failed(missing(call, name))
        return
    digest = manifest.layers[0].digest if manifest.layers else manifest.config.digest
    where = f"https://{name.host}/v2/{name.namespace}/{name.model}/blobs/{digest}"
    yield Failed(f'Head "{where}": dial tcp: lookup {name.host}: no such host')


def missing(call: Call, name: Name) -> str:
    """The text for a manifest that is not there."""
    if not name.is_valid():
        return f"unqualified name: {name}"
    path = call.state.store.blobs_path.removesuffix("/blobs")
    parts = f"{name.host}/{name.namespace}/{name.model}/{name.tag}"
    return f"open {path}/manifests/{parts}: no such file or directory"

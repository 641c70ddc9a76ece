"""Blobs and manifests, with the digests that the real files would have.

Source: Ollama v0.24.0 ``manifest/manifest.go``, ``manifest/layer.go``, ``types/model/config.go``.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonin import GoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.simulator.engine.names import Name
    from proxy.simulator.engine.weights import Weights

MEDIA: Final = "application/vnd.ollama.image."
_DIGEST: Final = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class InvalidDigest(GoError):
    """A digest is not "sha256:" and 64 hex digits."""

    def __init__(self) -> None:
        super().__init__("invalid digest format")


def normal_digest(digest: str) -> str:
    """The digest as the store keys it.

    Raises:
        InvalidDigest
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidDigest
    return digest.replace("-", ":")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a model: what it is, and the blob that holds it."""

    media_type: str
    digest: str
    size: int
    origin: str = ""
    status: str = ""

    def as_json(self) -> dict[str, object]:
        """The layer as it stands in a manifest."""
        out: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.origin:
            out["from"] = self.origin
        return out


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's layers and configuration."""

    config: Layer
    layers: tuple[Layer, ...]
    settings: Mapping[str, object]
    modified_ns: int
    pinned_digest: str = ""

    @property
    def digest(self) -> str:
        """The digest of the manifest's text, which /api/tags shows."""
        if self.pinned_digest:
            return self.pinned_digest
        text = jsonout.marshal(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": self.config.as_json(),
                "layers": [layer.as_json() for layer in self.layers],
            }
        )
        return hashlib.sha256(f"{text}\n".encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers) + self.config.size

    def first(self, kind: str) -> Layer | None:
        """The layer of one kind ("model", "template", ...)."""
        return next((layer for layer in self.layers if layer.media_type == MEDIA + kind), None)


@dataclass(slots=True)
class Blob:
    """The content of a blob, or the weights that it stands for; content of large uploads is not kept."""

    size: int
    content: bytes | None = None
    weights: Weights | None = None


@dataclass(slots=True)
class Store:
    """All blobs and manifests of one server. Has one owner: the server."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    manifests: dict[Name, Manifest] = field(default_factory=dict)
    blobs_path: str = "/usr/share/ollama/.ollama/models/blobs"

    def path_of(self, digest: str) -> str:
        """Where the blob would be on disk; shown by /api/show."""
        return f"{self.blobs_path}/{digest.replace(':', '-')}"

    def add_weights(self, weights: Weights) -> None:
        """Put a model file into the store."""
        self.blobs[weights.digest] = Blob(weights.size_bytes, weights=weights)

    def layer(self, content: bytes, kind: str) -> Layer:
        """A layer with this content, stored."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        known = digest in self.blobs
        if not known:
            self.blobs[digest] = Blob(len(content), content)
        media_type = "application/vnd.docker.container.image.v1+json" if kind == "config" else MEDIA + kind
        return Layer(media_type, digest, len(content), status=f"{_how(known=known)} {digest}")

    def reuse(self, layer: Layer, origin: str) -> Layer:
        """A layer of another model, used again."""
        return replace(layer, origin=origin, status=f"using existing layer {layer.digest}")

    def content(self, layer: Layer | None) -> bytes:
        """The content of a small layer."""
        blob = self.blobs.get(layer.digest) if layer is not None else None
        return blob.content or b"" if blob is not None else b""

    def weights_of(self, manifest: Manifest) -> Weights | None:
        """The weights of a model; None for remote ones."""
        layer = manifest.first("model")
        blob = self.blobs.get(layer.digest) if layer is not None else None
        return blob.weights if blob is not None else None

    def write(self, name: Name, layers: Iterable[Layer], settings: Mapping[str, object], **extra: object) -> Manifest:
        """Store a model under a name; ``extra`` may fix ``modified_ns`` and ``pinned_digest``."""
        kept = tuple(layers)
        config = {**settings, "architecture": "amd64", "os": "linux"}
        config["rootfs"] = {"type": "layers", "diff_ids": [layer.digest for layer in kept]}
        config_layer = self.layer(f"{jsonout.marshal(config)}\n".encode(), "config")
        manifest = Manifest(config_layer, kept, dict(settings), time.time_ns())
        for key in ("modified_ns", "pinned_digest"):
            if key in extra:
                manifest = replace(manifest, **{key: extra[key]})  # type: ignore[arg-type]
        self.manifests[name] = manifest
        return manifest

    def existing(self, name: Name) -> Name:
        """The name with the spelling of what is there (``getExistingName``)."""
        for known in sorted(self.manifests, key=str):
            changes = {
                part: getattr(known, part)
                for part in ("host", "namespace", "model", "tag")
                if getattr(known, part).lower() == getattr(name, part).lower()
            }
            name = replace(name, **changes)
        return name

    def find(self, name: Name) -> Manifest | None:
        """The model of exactly this name."""
        bare = replace(name, scheme="https")
        return self.manifests.get(bare)

    def copy(self, source: Name, target: Name) -> bool:
        """Give a model a second name; False when there is no such model."""
        manifest = self.find(source)
        if manifest is None:
            return False
        if str(source) != str(target):
            self.manifests[replace(target, scheme="https")] = replace(manifest, modified_ns=time.time_ns())
        return True

    def remove(self, name: Name) -> bool:
        """Remove a name, and the blobs that no other model has."""
        manifest = self.manifests.pop(replace(name, scheme="https"), None)
        if manifest is None:
            return False
        used = {layer.digest for other in self.manifests.values() for layer in (*other.layers, other.config)}
        for layer in (*manifest.layers, manifest.config):
            if layer.digest not in used:
                self.blobs.pop(layer.digest, None)
        return True


def _how(*, known: bool) -> str:
    return "using existing layer" if known else "creating new layer"

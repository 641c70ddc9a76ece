"""Which settings do not go together: refused at start, or worth a warning.

Pure functions over a complete ``Settings``. Each refusal names the field that the operator would change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.errors import ConfigError
from proxy.settings.address import Address, is_loopback, is_same_place, parse_address
from proxy.wire.durations import parse_keep_alive
from proxy.wire.names import canonical, is_cloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.settings.model import ApiKey, FallbackUpstream, KeptModel, Settings


def refuse_impossible(settings: Settings) -> None:
    """Check what no field can check alone.

    Raises:
        ConfigError: Two settings contradict each other; names the one to change.
    """
    listen, admin = parse_address(settings.listen), parse_address(settings.admin)
    if is_same_place(listen, admin):
        raise ConfigError("admin", f"is the same place as listen ({settings.listen}); give it a port of its own")
    upstream = upstream_address(settings.upstream.url)
    for name, address in (("listen", listen), ("admin", admin)):
        if is_same_place(address, upstream):
            raise ConfigError("upstream.url", f"{settings.upstream.url} is the proxy itself ({name} is {address})")
    for index, other in enumerate(settings.fallback):
        address = upstream_address(other.url)
        if is_same_place(address, upstream):
            raise ConfigError(f"fallback.{index}.url", f"{other.url} is upstream.url itself")
        if is_same_place(address, listen) or is_same_place(address, admin):
            raise ConfigError(f"fallback.{index}.url", f"{other.url} is the proxy itself")
        _refuse_impossible_fallback(f"fallback.{index}", other)
    _refuse_repeated_keys(settings.keys)
    _refuse_open_door(settings)
    _refuse_repeated_names(settings.models)
    for index, model in enumerate(settings.models):
        _refuse_impossible_model(f"models.{index}", model, settings)


def _refuse_impossible_fallback(field: str, other: FallbackUpstream) -> None:
    if other.kind == "ollama":
        if other.base_path:
            raise ConfigError(f"{field}.url", f"{other.url} has a path, and Ollama's API starts at the root")
        if other.client_credentials and other.key_env:
            raise ConfigError(f"{field}.client_credentials", "has no meaning beside key_env, which is shown instead")
        return
    if not other.models:
        raise ConfigError(
            f"{field}.models", "is empty, and a provider is asked for the models in it only: {ours: theirs}"
        )
    if other.client_credentials:
        raise ConfigError(f"{field}.client_credentials", "a client's credential never goes to a provider; use key_env")
    if other.key_env and other.url.startswith("http:") and not is_loopback(urlsplit(other.url).hostname or ""):
        raise ConfigError(f"{field}.url", f"{other.url} would carry the key of key_env as it is; use https://")


def upstream_address(url: str) -> Address:
    """Host and port that ``upstream.url`` leads to, with the scheme's own port where it names none."""
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _refuse_repeated_keys(keys: tuple[ApiKey, ...]) -> None:
    names: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for index, key in enumerate(keys):
        first = names.setdefault(key.name, index)
        if first != index:
            raise ConfigError(f"keys.{index}.name", f"{key.name} is listed twice (keys.{first})")
        first = hashes.setdefault(key.hash, index)
        if first != index:
            raise ConfigError(f"keys.{index}.hash", f"is that of keys.{first} ({keys[first].name}); each needs its own")


def _refuse_open_door(settings: Settings) -> None:
    """What lets in more than the operator is likely to know of has to be said in so many words."""
    edge = settings.edge
    for name in ("listen", "admin"):
        address = parse_address(getattr(settings, name))
        if not settings.keys and not edge.allow_anonymous and not is_loopback(address.host):
            raise ConfigError(
                name,
                f"{address} can be reached from other machines, and there are no keys; "
                "add one (pilotlight key new NAME), or set edge.allow_anonymous: true",
            )
    if "*" in edge.origins and (not settings.keys or edge.allow_anonymous):
        remedy = "set edge.allow_anonymous: false" if settings.keys else "add keys (pilotlight key new NAME)"
        raise ConfigError(
            f"edge.origins.{edge.origins.index('*')}",
            f"* lets every web page call without a key; {remedy}, or list the origins",
        )


def _refuse_repeated_names(models: tuple[KeptModel, ...]) -> None:
    seen: dict[str, int] = {}
    for index, model in enumerate(models):
        first = seen.setdefault(canonical(model.name), index)
        if first != index:
            raise ConfigError(
                f"models.{index}.name", f"{model.name} is listed twice (models.{first} is {models[first].name})"
            )


def _refuse_impossible_model(field: str, model: KeptModel, settings: Settings) -> None:
    if parse_keep_alive(model.keep_alive) == 0:
        raise ConfigError(f"{field}.keep_alive", "0 unloads the model after each request, so it cannot be kept")
    num_ctx = model.options.get("num_ctx")
    if num_ctx is not None and model.max_num_ctx is not None and model.max_num_ctx < num_ctx:
        raise ConfigError(f"{field}.max_num_ctx", f"{model.max_num_ctx} is less than options.num_ctx ({num_ctx})")
    if model.long_prompts == "grow" and settings.rewrite.client_options == "enforce":
        raise ConfigError(
            f"{field}.long_prompts", "grow needs a num_ctx that can change; rewrite.client_options: enforce forbids it"
        )
    for index, entry in enumerate(model.warm):
        if not entry.system and not entry.tools:
            raise ConfigError(f"{field}.warm.{index}", "has neither a system prompt nor tools")


def warnings(settings: Settings) -> Iterator[str]:
    """One line for each thing that works but is probably not what was meant."""
    for index, model in enumerate(settings.models):
        field = f"models.{index} ({model.name})"
        slots = settings.scheduler.parallel
        if len(model.warm) > slots:
            yield (
                f"{field}: {len(model.warm)} warm entries, but {slots} slot(s) in Ollama; one slot holds one prefix: "
                "they push each other out. Keep the most used, or raise OLLAMA_NUM_PARALLEL for both"
            )
        if model.warm and not settings.residency.warmup:
            yield f"{field}: its warm entries are not read, because residency.warmup is off"
        if (seconds := parse_keep_alive(model.keep_alive)) is not None and seconds < settings.residency.check_every_s:
            yield (
                f"{field}: keep_alive is {seconds:g} s, shorter than residency.check_every_s "
                f"({settings.residency.check_every_s:g} s): it will be unloaded and loaded again and again"
            )
        if is_cloud(model.name):
            yield f"{field}: runs in the cloud, so there is nothing to keep resident"
    for name in ("listen", "admin"):
        address = parse_address(getattr(settings, name))
        if settings.edge.allow_anonymous and not is_loopback(address.host):
            yield f"{name}: {address} can be reached from other machines, and edge.allow_anonymous lets them all in"

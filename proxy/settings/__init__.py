"""Settings: what they are (``model``), where values come from (``sources``), what does not go together (``rules``)."""

from proxy.settings.address import Address, parse_address, to_listen_on
from proxy.settings.model import (
    ApiKey,
    Defaults,
    EdgeSettings,
    EmbedBatch,
    FallbackUpstream,
    KeptModel,
    LogSettings,
    RelaySettings,
    ResidencySettings,
    Rewrite,
    RunnerOptions,
    Settings,
    ShutdownSettings,
    Upstream,
    WarmEntry,
)
from proxy.settings.rules import upstream_address, warnings
from proxy.settings.sources import fallback_keys, load, process_environ
from proxy.settings.values import KeepAlive

__all__ = [
    "Address",
    "ApiKey",
    "Defaults",
    "EdgeSettings",
    "EmbedBatch",
    "FallbackUpstream",
    "KeepAlive",
    "KeptModel",
    "LogSettings",
    "RelaySettings",
    "ResidencySettings",
    "Rewrite",
    "RunnerOptions",
    "Settings",
    "ShutdownSettings",
    "Upstream",
    "WarmEntry",
    "fallback_keys",
    "load",
    "parse_address",
    "process_environ",
    "to_listen_on",
    "upstream_address",
    "warnings",
]

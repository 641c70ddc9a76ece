"""Settings: what they are (``model``), and where their values come from (``sources``)."""

from proxy.settings.model import (
    Defaults,
    EdgeSettings,
    KeepAlive,
    KeptModel,
    LogSettings,
    RelaySettings,
    ResidencySettings,
    Rewrite,
    Settings,
    ShutdownSettings,
    Upstream,
    WarmEntry,
)

__all__ = [
    "Defaults",
    "EdgeSettings",
    "KeepAlive",
    "KeptModel",
    "LogSettings",
    "RelaySettings",
    "ResidencySettings",
    "Rewrite",
    "Settings",
    "ShutdownSettings",
    "Upstream",
    "WarmEntry",
]

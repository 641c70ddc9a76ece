"""The dashboards as code; ``scripts/dashboards`` writes what Grafana reads into ``dashboards/``.

They are of the first schema, which every Grafana since 10 reads. The library would rather be asked for the second, and
says so whenever it is imported.
"""

from __future__ import annotations

import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    for _module in ("dashboard", "bargauge"):
        importlib.import_module(f"grafana_foundation_sdk.builders.{_module}")

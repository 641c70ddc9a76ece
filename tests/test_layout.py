"""The import table, and what each outside thing belongs to.

The table is ordered bottom-up: a row may name only rows before it, so a cycle cannot be written down. Changing it is
normal; doing so unnoticed is not.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGE = Path(__file__).parent.parent / "proxy"

# What a folder or root module of `proxy` may import of the others. A dotted entry allows that one module only, and a
# folder with a row of its own is not a part of the one that it is in.
TABLE: dict[str, tuple[str, ...]] = {
    "__init__": (),
    # A program by itself, which is started every few seconds.
    "healthcheck": (),
    "errors": (),
    # How bytes leave, towards clients and towards Ollama.
    "outlet": (),
    "wire": ("errors",),
    "settings": ("errors", "wire.durations", "wire.names", "wire.urls"),
    "observe": ("__init__", "errors", "settings", "wire"),
    "upstream": ("errors", "outlet", "settings", "wire", "observe"),
    "rewrite": ("errors", "settings", "wire"),
    "admission": ("errors",),
    "residency": ("errors", "settings", "wire", "observe", "upstream", "rewrite"),
    "reuse": ("errors", "settings", "wire", "observe", "upstream", "rewrite"),
    "edge": ("errors", "wire", "settings", "admission.priority"),
    "relay": (
        "errors",
        "settings",
        "wire",
        "observe",
        "upstream",
        "rewrite",
        "admission",
        "edge",
        "residency",
        "reuse",
    ),
    "server": (
        "__init__",
        "errors",
        "outlet",
        "settings",
        "wire",
        "observe",
        "upstream",
        "rewrite",
        "admission",
        "edge",
        "residency",
        "reuse",
        "relay",
    ),
    # These two stand beside the proxy: they know what crosses the wire and little else of it.
    "simulator": ("wire",),
    # A client of the proxy, or of Ollama, over the connections that the proxy uses itself.
    "batch": ("errors", "wire", "upstream"),
    # The users' benchmark knows of the proxy what it knows of any server.
    "bench": ("__init__", "wire", "observe.stats", "observe.timeline"),
    # Our own ones measure the scheduler by itself, with a clock that is not real, and what lets a request in.
    "bench.own": (
        "errors",
        "settings",
        "wire",
        "admission.priority",
        "admission.ratelimit",
        "admission.scheduler",
        "edge",
        "relay.target",
        "bench",
    ),
    # It looks at an Ollama as the proxy does, and times streams as the benchmarks do.
    "doctor": (
        "errors",
        "settings",
        "wire",
        "observe.row",
        "upstream.ollama",
        "rewrite.facts",
        "rewrite.options",
        "bench.first_token",
    ),
    "cli": (
        "__init__",
        "errors",
        "settings",
        "wire.urls",
        "edge.keys",
        "server",
        "simulator",
        "batch",
        "bench",
        "doctor",
    ),
    "__main__": ("cli",),
}

# Modules (or folders) that alone may use an outside thing, named as it is imported.
OWNERS: dict[str, tuple[str, ...]] = {
    "prometheus_client": ("observe.metrics", "observe.families", "observe.plain", "doctor.gather"),
    "os.environ": ("settings.sources", "healthcheck"),
    "os.getenv": ("settings.sources",),
    "aiohttp.ClientSession": ("upstream", "bench", "doctor.gather", "doctor.contact"),
    "typer": ("cli",),
    "yaml": ("settings", "cli"),
    "pydantic": ("settings", "bench.results"),
    "cachetools": ("reuse.store",),
    "jinja2": ("bench.report",),
    "matplotlib": ("bench.report",),
    "watchfiles": ("server.reload",),
}

# Decisions: plain functions of their arguments, so they neither wait nor ask what time it is.
PURE = (
    "wire",
    "rewrite",
    "settings",
    "errors",
    "residency.observation",
    "residency.plan",
    "residency.runner",
    "residency.runners",
    "observe.timeline",
    "observe.stats",
    "reuse.key",
    "bench.compare",
    "bench.report.words",
    "bench.results",
    "bench.spreadsheet",
    "bench.own.costs",
    "bench.own.figures",
    "bench.own.table",
    "admission.models",
    "admission.priority",
    "admission.queues",
    "admission.ratelimit",
    "admission.scheduler",
    "edge.callers",
    "edge.hosts",
    "edge.keys",
    "edge.origins",
    "edge.scopes",
    "upstream.breaker",
    "upstream.budget",
    "upstream.retry",
    "batch.answer",
    "batch.attempts",
    "batch.job",
    "batch.line",
    "batch.lines",
    "batch.pace",
    "batch.record",
    "batch.recovery",
    "batch.window",
    "doctor.finding",
    "doctor.facts",
    "doctor.server",
    "doctor.staying",
    "doctor.memory",
    "doctor.watching",
    "doctor.hop",
    "doctor.sidecar",
    "doctor.checks",
    "doctor.report",
)
IMPURE_IMPORTS = {"asyncio", "aiohttp", "logging", "random", "socket", "subprocess", "threading", "time", "uvloop"}

# The error boundaries, the one home of `except Exception`: for the pages of the admin port, and for the listening port.
BOUNDARIES = ("server.boundary", "server.connection")

Sources = dict[str, ast.Module]


def read_package() -> Sources:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def belongs(module: str, owner: str) -> bool:
    return module == owner or module.startswith(f"{owner}.")


def row_of(module: str, table: Mapping[str, tuple[str, ...]] = TABLE) -> str:
    """The row that speaks of a module; empty where none does."""
    return max((row for row in table if belongs(module, row)), key=len, default="")


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported thing with its line, as ``package.module.name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports, and attributes of names (``os.environ``, ``aiohttp.ClientSession``)."""
    yield from imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def wrong_imports(sources: Sources, table: Mapping[str, tuple[str, ...]] = TABLE) -> list[str]:
    findings = []
    for module, tree in sources.items():
        folder = row_of(module, table)
        if not folder:
            findings.append(f"{module}: has no row in the table")
            continue
        for line, name in imported(tree):
            if name.startswith("."):
                findings.append(f"{module}:{line}: relative import; write proxy.{folder} out")
            if name != "proxy" and not name.startswith("proxy."):
                continue
            target = name.removeprefix("proxy").removeprefix(".")
            row = row_of(target, table)
            if not row:
                row = target = "__init__"
            if row != folder and not any(belongs(target, name) and belongs(name, row) for name in table[folder]):
                findings.append(f"{module}:{line}: {folder} must not import {target}")
    return findings


def wrong_owners(sources: Sources) -> list[str]:
    return [
        f"{module}:{line}: only {' and '.join(owners)} may use {thing}"
        for module, tree in sources.items()
        for line, name in used(tree)
        for thing, owners in OWNERS.items()
        if belongs(name, thing) and not any(belongs(module, owner) for owner in owners)
    ]


def wrong_words(sources: Sources) -> list[str]:
    findings = []
    for module, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                findings.append(f"{module}:{node.lineno}: global")
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                findings.append(f"{module}:{node.lineno}: bare except")
                continue
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            if module not in BOUNDARIES and "Exception" in names:
                findings.append(f"{module}:{node.lineno}: except Exception outside the boundaries")
    return findings


def impure_decisions(sources: Sources) -> list[str]:
    findings = []
    for module, tree in sources.items():
        if not any(belongs(module, pure) for pure in PURE):
            continue
        findings += [
            f"{module}:{line}: a decision must not import {name}"
            for line, name in imported(tree)
            if name.split(".")[0] in IMPURE_IMPORTS
        ]
        findings += [
            f"{module}:{node.lineno}: a decision must not wait"
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        ]
    return findings


CHECKS = (wrong_imports, wrong_owners, wrong_words, impure_decisions)


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_its_layout(check: type[wrong_imports]) -> None:
    assert check(read_package()) == []


def test_the_table_is_ordered_bottom_up() -> None:
    rows = list(TABLE)
    for row, allowed in TABLE.items():
        assert all(row_of(name) in rows[: rows.index(row)] for name in allowed), row


def test_each_row_of_the_tables_is_about_something_that_exists() -> None:
    modules = read_package()
    assert {row_of(module) for module in modules} == set(TABLE)
    for owner in {owner for owners in OWNERS.values() for owner in owners} | {*PURE, *BOUNDARIES}:
        assert owner in modules, owner


@pytest.mark.parametrize(
    ("module", "source", "finding"),
    [
        ("wire.frames", "import proxy.relay.call", "wire must not import relay.call"),
        ("wire.frames", "from proxy.settings import Settings", "wire must not import settings.Settings"),
        ("settings.model", "from proxy.wire.frames import split", "settings must not import wire.frames.split"),
        ("simulator.app", "from proxy import errors", "simulator must not import errors"),
        ("bench.own.relay", "from proxy.server.app import run", "bench.own must not import server.app.run"),
        ("bench.run", "from proxy.bench.own import relay", "bench must not import bench.own.relay"),
        ("cli.bench", "from proxy.bench.own.relay import run", "cli must not import bench.own.relay.run"),
        ("errors", "from proxy import __version__", "errors must not import __init__"),
        ("relay.call", "if x:\n    from proxy.server import app", "relay must not import server.app"),
        ("relay.call", "from . import frames", "relative import"),
        ("utils", "", "has no row"),
        ("relay.call", "from prometheus_client import Counter", "may use prometheus_client"),
        ("relay.call", "import os\nx = os.environ['A']", "may use os.environ"),
        ("relay.call", "from os import getenv", "may use os.getenv"),
        ("server.app", "import aiohttp\ns = aiohttp.ClientSession()", "may use aiohttp.ClientSession"),
        ("relay.call", "def f():\n    global x\n    x = 1", "global"),
        ("relay.call", "try: pass\nexcept: pass", "bare except"),
        ("relay.call", "try: pass\nexcept Exception: pass", "except Exception outside"),
        ("relay.call", "try: pass\nexcept (OSError, Exception): pass", "except Exception outside"),
        ("rewrite.generate", "import time", "must not import time"),
        ("rewrite.generate", "async def decide(): pass", "must not wait"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, finding: str) -> None:
    (found,) = [line for check in CHECKS for line in check({module: ast.parse(source)})]
    assert finding in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("settings.model", "from proxy.wire.durations import parse_keep_alive"),
        ("relay.call", "from proxy.relay.frames import split\nimport proxy.errors"),
        ("bench.own.relay", "from proxy.bench.children import Child"),
        ("server.boundary", "try: pass\nexcept Exception: pass"),
        ("observe.metrics", "from prometheus_client import Counter"),
        ("wire.times", "import timeit"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert [line for check in CHECKS for line in check({module: ast.parse(source)})] == []

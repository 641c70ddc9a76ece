from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from proxy import errors


def test_each_error_has_a_code_of_its_own() -> None:
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.PilotlightError)
    ]
    assert sorted(kind.code for kind in kinds) == sorted(errors.all_codes())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("internal", 500),
        ("bad_request", 400),
        ("unauthorized", 401),
        ("forbidden", 403),
        ("origin_refused", 403),
        ("method_not_allowed", 405),
        ("request_timeout", 408),
        ("body_too_large", 413),
        ("misdirected_host", 421),
        ("not_implemented", 501),
        ("version_not_supported", 505),
        ("upstream_unreachable", 502),
        ("upstream_broken", 502),
        ("upstream_timeout", 504),
        ("overloaded", 503),
        ("shutting_down", 503),
        ("load_failed", 500),
        ("loop", 508),
    ],
)
def test_the_class_decides_the_status(code: str, status: int) -> None:
    error = errors.all_codes()[code]("text")
    assert (error.status, error.code, error.message, str(error)) == (status, code, "text", "text")


def test_a_failed_load_carries_ollamas_own_status() -> None:
    assert errors.LoadFailed("out of memory", status=507).status == 507


def test_a_hint_to_try_again_is_kept() -> None:
    assert errors.ShuttingDown("later", retry_after_s=2).retry_after_s == 2
    assert errors.ShuttingDown("later").retry_after_s is None


def test_a_settings_error_names_its_field() -> None:
    assert str(errors.ConfigError("relay.idle_timeout_s", "is negative")) == "relay.idle_timeout_s: is negative"


def test_the_tree_in_the_module_is_the_tree_of_the_module() -> None:
    drawn = inspect.getdoc(errors) or ""
    for code, kind in errors.all_codes().items():
        if kind is not errors.PilotlightError:
            (line,) = [line for line in drawn.splitlines() if f"── {kind.__name__} " in line]
            assert line.split()[2:4] == [str(kind.status), code]


def test_errors_import_nothing_of_ours() -> None:
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(errors))) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imports} == {"__future__", "typing"}


def test_every_error_is_raised_somewhere() -> None:
    package = Path(inspect.getfile(errors)).parent
    sources = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "errors.py")
    for kind in errors.all_codes().values():
        if kind is not errors.PilotlightError:
            assert f"{kind.__name__}(" in sources, kind

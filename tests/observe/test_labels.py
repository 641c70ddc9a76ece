from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.labels import LONGEST_NAME, OTHER, ModelLabels, code_class, one_of


def test_a_name_is_a_label_once_something_knows_it() -> None:
    labels = ModelLabels()
    assert labels.of("llama3.2") == OTHER

    labels.know(["llama3.2:latest"])

    assert labels.of("llama3.2") == "llama3.2:latest"
    assert labels.of("Library/LLAMA3.2") == "llama3.2:latest"


def test_a_model_called_other_is_not_taken_for_the_rest() -> None:
    labels = ModelLabels(["other"])

    assert labels.of("other") == "other:latest"


def test_the_limit_holds_and_forgetting_makes_room() -> None:
    labels = ModelLabels(["kept"], limit=2)
    labels.know(["a", "b"])

    assert [labels.of(name) for name in ("a", "b", "kept")] == ["a:latest", OTHER, "kept:latest"]
    assert labels.forget(["a", "kept", "never-seen"]) == ["a:latest"]
    assert [labels.of(name) for name in ("a", "b", "kept")] == [OTHER, "b:latest", "kept:latest"]


def test_a_name_that_came_back_may_be_a_label_again() -> None:
    labels = ModelLabels()
    labels.know(["a"])
    labels.forget(["a"])
    assert labels.of("a") == OTHER

    labels.know(["a"])

    assert labels.of("a") == "a:latest"


def test_names_that_the_settings_get_later_are_labels_at_once_and_beyond_the_limit() -> None:
    labels = ModelLabels(["one"], limit=1)
    assert labels.keep(["One", "two"]) == ["two:latest"]
    assert (labels.of("two"), labels.configured) == ("two:latest", ("one:latest", "two:latest"))
    assert labels.forget(["two"]) == []
    assert labels.keep(["one"]) == []
    assert (labels.of("two"), labels.forget(["two"]), labels.of("two")) == ("two:latest", ["two:latest"], OTHER)


@given(names=st.lists(st.text(), max_size=50), known=st.lists(st.text(), max_size=50))
def test_whatever_is_asked_labels_are_few_short_and_printable(names: list[str], known: list[str]) -> None:
    labels = ModelLabels(limit=5)
    labels.know(known)

    found = {labels.of(name) for name in (*names, *known)} - {OTHER}

    assert len(found) <= 5
    assert all(label.isprintable() and len(label) <= LONGEST_NAME for label in found)


def test_memory_of_spellings_is_bounded() -> None:
    labels = ModelLabels()

    for n in range(5000):
        labels.of(f"ghost{n}")

    assert len(labels._canonical) <= 512


@pytest.mark.parametrize(
    ("status", "expected"),
    [(100, "1xx"), (204, "2xx"), (301, "3xx"), (404, "4xx"), (499, "499"), (503, "5xx"), (0, "5xx")],
)
def test_a_client_that_left_has_a_class_of_its_own(status: int, expected: str) -> None:
    assert code_class(status) == expected


def test_a_value_outside_a_closed_list_is_other() -> None:
    assert one_of("stop", ("stop",)) == "stop"
    assert one_of("evil", ("stop",)) == OTHER
    assert one_of("evil", ("stop",), "stop") == "stop"

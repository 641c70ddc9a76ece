from __future__ import annotations

import pytest

from proxy.admission.priority import PRIORITIES, Priority, parse_priority


@pytest.mark.parametrize("priority", Priority)
def test_a_label_is_read_as_its_class(priority: Priority) -> None:
    assert parse_priority(priority.label) is priority
    assert parse_priority(f" {priority.label.upper()}\t") is priority


def test_the_more_urgent_is_smaller() -> None:
    assert [priority.label for priority in PRIORITIES] == ["interactive", "normal", "batch"]
    assert list(PRIORITIES) == sorted(Priority) == [0, 1, 2]


@pytest.mark.parametrize("value", ["", "high", "0", "inter active", "interactive,batch"])
def test_anything_else_is_refused_with_the_names_that_there_are(value: str) -> None:
    with pytest.raises(ValueError, match="interactive, normal, batch"):
        parse_priority(value)

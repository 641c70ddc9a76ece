from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from proxy.residency.checklist import Checklist, gigabytes


def test_a_step_is_told_once_for_each_model_with_its_seconds() -> None:
    checklist = Checklist(lambda: 12.5)
    with capture_logs() as logs:
        for model in ("one", "two", "one"):
            checklist.tell("model loaded", 0.25, model=model)
    assert [(line["model"], line["log_level"]) for line in logs] == [("one", "info"), ("two", "info"), ("one", "debug")]
    assert logs[0]["seconds"] == 0.25


def test_a_step_without_seconds_of_its_own_counts_from_the_start() -> None:
    times = iter([10.0, 13.0])
    checklist = Checklist(lambda: next(times))
    with capture_logs() as logs:
        checklist.tell("ready")
    assert logs[0]["seconds"] == 3.0


@pytest.mark.parametrize(("size", "text"), [(5 * 2**30, "5.0 GiB"), (2**20, "1 MiB"), (0, "0 MiB")])
def test_sizes_are_told_as_people_compare_them(size: int, text: str) -> None:
    assert gigabytes(size) == text

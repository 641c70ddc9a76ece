from __future__ import annotations

import pytest

from proxy.doctor.finding import amount, span


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0 B"), (900, "900 B"), (83_000_000, "79 MiB"), (2**30, "1.0 GiB"), (11_448_240_000, "10.7 GiB")],
)
def test_sizes_are_said_as_people_say_them(size_bytes: int, said: str) -> None:
    assert amount(size_bytes) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0804, "80 ms"),
        (0.9999, "1 s"),
        (2.61, "2.6 s"),
        (59.96, "1 min"),
        (252, "4 min 12 s"),
        (300, "5 min"),
        (11_100, "3 h 5 min"),
        (3599.9, "1 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert span(seconds) == said

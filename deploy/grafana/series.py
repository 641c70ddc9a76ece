"""What several dashboards show alike: colours of closed labels, and two expressions."""

from __future__ import annotations

from typing import Final

from deploy.grafana.looks import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from deploy.grafana.promql import MODEL, WINDOW, rate

PARTS: Final = {"queue": ORANGE, "load": RED, "prompt": BLUE, "proxy": PURPLE, "other": GREY}
STATUSES: Final = {
    "ok": GREEN, "client_error": "light-yellow", "cancelled": GREY, "upstream_error": RED, "timeout": ORANGE,
    "rejected": PURPLE,
}  # fmt: skip
PRIORITIES: Final = {"interactive": BLUE, "normal": GREEN, "batch": GREY}

# A state is a label, and a timeline draws numbers: so each state has one.
STATES: Final = {
    0.0: ("Absent", GREY),
    1.0: ("Resident", GREEN),
    2.0: ("Loading", BLUE),
    3.0: ("Lost", ORANGE),
    4.0: ("Failed", RED),
    5.0: ("Released", PURPLE),
}
STATE_OF_KEPT: Final = " + ".join(
    f'{number:g} * max by (instance, model) (pilotlight_model_state{{{MODEL}, state="{name.lower()}"}})'
    for number, (name, _) in STATES.items()
)
LOADED: Final = {0.0: ("Not loaded", GREY), 1.0: ("Loaded", GREEN)}


def parts_per_call() -> str:
    """Mean seconds per call that each part of the first token took; what is stacked is the mean first token."""
    seconds = rate("llm_time_to_first_token_part_seconds_sum", MODEL, "part")
    calls = f"sum(rate(llm_time_to_first_token_seconds_count{{{MODEL}}}[{WINDOW}]))"
    return f"{seconds} / on() group_left() ({calls} > 0)"

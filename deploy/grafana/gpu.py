"""The graphics cards, as NVIDIA's DCGM exporter tells of them (``docker-compose.gpu.yml``).

Names and units are those of its ``etc/default-counters.csv``: percent, degrees Celsius, watts, MHz, MiB.
"""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import GREEN, ORANGE, RED
from deploy.grafana.sources import Query

_GPU: Final = 'gpu=~"$gpu"'
_NAME: Final = "GPU {{gpu}} {{modelName}}"
_NONE: Final = "No GPU exporter"


def gpu() -> Board:
    board = Board(
        "pilotlight-gpu", "Pilotlight / GPU", "Needs docker-compose.gpu.yml.", has_model=False, has_events=False
    ).variable("gpu", "GPU", "DCGM_FI_DEV_GPU_UTIL")
    board.row("GPU").graph(
        "Memory",
        [
            Query(f"DCGM_FI_DEV_FB_USED{{{_GPU}}} * 1024 * 1024", f"{_NAME} used"),
            Query(f"DCGM_FI_DEV_FB_FREE{{{_GPU}}} * 1024 * 1024", f"{_NAME} free"),
        ],
        "bytes",
        "VRAM of each card. Nothing free: the next model pushes one out, or spills into main memory.",
        stacked=True,
        none=_NONE,
    ).graph(
        "Busy",
        [Query(f"DCGM_FI_DEV_GPU_UTIL{{{_GPU}}} / 100", _NAME)],
        "percentunit",
        "Share of the time in which the card computes something. Low while calls wait: the model is on the CPU, or "
        "Ollama is loading.",
        top=1,
        none=_NONE,
    ).graph(
        "Temperature",
        [Query(f"DCGM_FI_DEV_GPU_TEMP{{{_GPU}}}", _NAME)],
        "celsius",
        "From about 83 degrees on most cards slow down: look at the fans.",
        steps=((None, GREEN), (75, ORANGE), (83, RED)),
        width=8,
        none=_NONE,
    ).graph(
        "Power",
        [Query(f"DCGM_FI_DEV_POWER_USAGE{{{_GPU}}}", _NAME)],
        "watt",
        "What the card draws. At its limit the clock goes down.",
        width=8,
        none=_NONE,
    ).graph(
        "Clock",
        [Query(f"DCGM_FI_DEV_SM_CLOCK{{{_GPU}}} * 1000 * 1000", _NAME)],
        "hertz",
        "Clock of the processors. Lower under load than before: heat or power.",
        width=8,
        none=_NONE,
    )
    return board

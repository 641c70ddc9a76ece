"""``pilotlight simulate``: a simulated Ollama, for trying things without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.settings import process_environ

# Written out, because the simulator is only imported when it runs; a test compares.
_FAULTS = (
    "close, reset, status, cut, cut_line, reset_stream, stall, error_line, clean_end, load_error, load_stall, crash"
)

Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Address of the simulated Ollama.")]
ProfileName = Annotated[str, typer.Option("--profile", metavar="NAME", help="Models: demo or recorded.")]
ModelsFile = Annotated[
    Path | None,
    typer.Option("--models", metavar="FILE", help="Models of your own, as YAML or JSON.", show_default=False),
]
Speed = Annotated[float, typer.Option("--speed", min=0.001, help="Divides every duration.")]
LoadScale = Annotated[float, typer.Option("--load-scale", min=0.001, help="Divides the duration of loads in addition.")]
Vram = Annotated[
    float | None, typer.Option("--vram", metavar="GIB", min=0, help="Memory of the GPU; 0: none.", show_default=False)
]
ControlAddress = Annotated[
    str | None,
    typer.Option(
        "--control", metavar="HOST:PORT", help="Takes faults, and holds tokens back; off without.", show_default=False
    ),
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fail",
        metavar="KIND[,after=N][,times=N][,path=P][,model=M]",
        help=f"Plan a fault; repeatable. Kinds: {_FAULTS}.",
        show_default=False,
    ),
]
RestartAfter = Annotated[
    float | None,
    typer.Option(
        "--restart-after", metavar="SECONDS", min=0, help="Come back after a crash; else exit.", show_default=False
    ),
]


def simulate(
    listen: Listen = "127.0.0.1:11434",
    profile: ProfileName = "demo",
    models: ModelsFile = None,
    speed: Speed = 1.0,
    load_scale: LoadScale = 1.0,
    vram: Vram = None,
    control: ControlAddress = None,
    fail: Faults = None,
    restart_after: RestartAfter = None,
) -> None:
    """Run a simulated Ollama: no model computes anything, and its speeds are made up.

    OLLAMA_NUM_PARALLEL, OLLAMA_MAX_LOADED_MODELS, OLLAMA_MAX_QUEUE, OLLAMA_KEEP_ALIVE, OLLAMA_CONTEXT_LENGTH,
    OLLAMA_ORIGINS and OLLAMA_NO_CLOUD are read as the real server reads them.
    """
    # Imported late: the other commands, the proxy among them, do without the simulator's 6 MiB.
    from proxy.cli.simulating import run

    code = run(
        process_environ(),
        listen=listen,
        profile=profile,
        models=models,
        speed=speed,
        load_scale=load_scale,
        vram_gib=vram,
        control=control,
        faults=fail or [],
        restart_after_s=restart_after,
    )
    raise typer.Exit(code)

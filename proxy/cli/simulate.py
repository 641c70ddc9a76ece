"""``pilotlight simulate``: a simulated Ollama, for trying things without a GPU."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Annotated

import typer
import yaml

from proxy.settings import process_environ
from proxy.simulator import (
    FAULT_KINDS,
    Environment,
    Profile,
    ProfileError,
    SimulatedOllama,
    build_profile,
    read_profile,
)
from proxy.simulator.control import Control
from proxy.simulator.environment import machine_changes, serve_environment

_CRASHED = 134  # as after SIGABRT: the real server's process is gone, too

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
    typer.Option("--control", metavar="HOST:PORT", help="Switches on a port of their own.", show_default=False),
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fail",
        metavar="KIND[,after=N][,times=N][,path=P][,model=M]",
        help=f"Plan a fault; repeatable. Kinds: {', '.join(FAULT_KINDS)}.",
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

    OLLAMA_NUM_PARALLEL, OLLAMA_MAX_LOADED_MODELS, OLLAMA_MAX_QUEUE, OLLAMA_KEEP_ALIVE, OLLAMA_CONTEXT_LENGTH and
    OLLAMA_ORIGINS are read as the real server reads them.
    """
    try:
        made = _read_models(models) if models is not None else read_profile(profile)
        host, port = _address(listen, "--listen")
        environ = process_environ()
        changes = machine_changes(environ)
        if vram is not None:
            changes["vram_bytes"] = int(vram * 2**30)
        environment = serve_environment(environ, host)
        simulated = _simulated(made, (host, port), speed, load_scale, environment, changes)
        for text in fail or []:
            _plan(simulated, text)
        where = _address(control, "--control") if control is not None else None
    except (ProfileError, ValueError) as error:
        typer.echo(f"pilotlight: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(asyncio.run(_run(simulated, where, restart_after)))


def _simulated(
    profile: Profile,
    address: tuple[str, int],
    speed: float,
    load_scale: float,
    environment: Environment,
    machine: dict[str, int],
) -> SimulatedOllama:
    host, port = address
    return SimulatedOllama(
        profile, speed=speed, load_scale=load_scale, host=host, port=port, environment=environment, **machine
    )


def _address(text: str, flag: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{flag}: HOST:PORT is needed, not {text}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _read_models(path: Path) -> Profile:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"--models: {path.name}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"--models: {path.name}: {error}") from None
    if not isinstance(data, dict):
        raise ProfileError(f"--models: {path.name}: an object is needed")
    return build_profile(data)


def _plan(simulated: SimulatedOllama, text: str) -> None:
    kind, *details = text.split(",")
    given: dict[str, object] = {}
    for detail in details:
        name, found, value = detail.partition("=")
        if not found:
            raise ValueError(f"--fail: {detail}: NAME=VALUE is needed")
        given[name] = json.loads(value) if value.lstrip("-").replace(".", "", 1).isdigit() else value
    try:
        simulated.fail(kind, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--fail: {error}") from None


async def _run(simulated: SimulatedOllama, control: tuple[str, int] | None, restart_after_s: float | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await simulated.start()
    except OSError as error:
        typer.echo(f"pilotlight: cannot listen on {simulated.host}:{simulated.port}: {error.strerror}", err=True)
        return 1
    typer.echo(f"simulated Ollama (not Ollama; its speeds are made up) on {simulated.url}")
    switches = Control(simulated, *control) if control is not None else None
    if switches is not None:
        await switches.start()
        typer.echo(f"switches under http://{control[0] if control else ''}:{switches.port}/_sim/")
    try:
        return await _until_stopped(simulated, stop, restart_after_s)
    finally:
        if switches is not None:
            await switches.aclose()
        await simulated.aclose()


async def _until_stopped(simulated: SimulatedOllama, stop: asyncio.Event, restart_after_s: float | None) -> int:
    """Until a signal comes, or a crash that is not to be survived."""
    while True:
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, simulated.crashed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if stop.is_set():
            return 0
        typer.echo("the simulated Ollama has died, as a real one would have", err=True)
        if restart_after_s is None:
            return _CRASHED
        await asyncio.sleep(restart_after_s)
        await simulated.restart()
        typer.echo(f"simulated Ollama again on {simulated.url}")

"""What `pilotlight simulate` does: a simulated Ollama from its flags, until a signal or a crash that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING

import typer
import yaml

from proxy.settings import Address, to_listen_on
from proxy.simulator import Environment, Profile, ProfileError, SimulatedOllama, build_profile, read_profile
from proxy.simulator.control import Control
from proxy.simulator.environment import machine_changes, serve_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_CRASHED = 134  # as after SIGABRT: the real server's process is gone, too


def run(
    environ: Mapping[str, str],
    *,
    listen: str,
    profile: str,
    models: Path | None,
    speed: float,
    load_scale: float,
    vram_gib: float | None,
    control: str | None,
    faults: Sequence[str],
    restart_after_s: float | None,
) -> int:
    """Run it.

    Returns:
        The exit code: 0 after a signal, 1 when it cannot listen, 2 when a flag is wrong (its name is printed), 134
        after a crash that was planned.
    """
    try:
        made = _read_models(models) if models is not None else read_profile(profile)
        address = _address(listen, "--listen")
        where = _address(control, "--control") if control is not None else None
        changes = machine_changes(environ)
        if vram_gib is not None:
            changes["vram_bytes"] = int(vram_gib * 2**30)
        environment = serve_environment(environ, address[0])
        simulated = _simulated(made, address, speed, load_scale, environment, changes)
        for text in faults:
            _plan(simulated, text)
    except (ProfileError, ValueError) as error:
        typer.echo(f"pilotlight: {error}", err=True)
        return 2
    return asyncio.run(_run(simulated, where, restart_after_s))


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
    async with contextlib.AsyncExitStack() as opened:
        try:
            with to_listen_on(Address(simulated.host, simulated.port)):
                await simulated.start()
            opened.push_async_callback(simulated.aclose)
            said = [f"simulated Ollama (not Ollama; its speeds are made up) on {simulated.url}"]
            if control is not None:
                switches = Control(simulated, *control)
                with to_listen_on(Address(*control)):
                    await switches.start()
                opened.push_async_callback(switches.aclose)
                said.append(f"switches under http://{Address(control[0], switches.port)}/_sim/")
        except OSError as error:
            typer.echo(f"pilotlight: cannot listen on {error.strerror}", err=True)
            return 1
        for line in said:
            typer.echo(line)
        return await _until_stopped(simulated, stop, restart_after_s)


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

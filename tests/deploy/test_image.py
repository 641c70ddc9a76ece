"""The image: its file is linted, and its steps are run, as far as that goes without an engine."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from proxy import __version__
from proxy.bench.children import Child, free_port
from proxy.settings import Settings
from tests.deploy.dockerfile import FILE, INSTALLED, ROOT, SOURCES, WHEELS, Stage, read, run
from tests.peers import until, until_answered

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first run installs the packages, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(300)

ARGUMENTS, (BUILD, FINAL) = read(FILE.read_text(encoding="utf-8"))
BIN = Path(sys.executable).parent
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
# As docker-compose.yml has it: another user, nothing to write to, no capability, no new privileges. `setpriv` still has
# root's rights over files when it starts a program; `env` has not.
READ_ONLY = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -o remount,bind,ro / && exec setpriv --reuid="$0" --regid="$0" --clear-groups --bounding-set=-all'
    ' --inh-caps=-all --no-new-privs -- env "$@"',
)


def user() -> str:
    (text,) = FINAL.texts("USER")
    return text.partition(":")[0]


def is_for_others(python: str) -> bool:
    """Whether the image's user could run it here, on a read-only file system."""
    try:
        tried = subprocess.run([*READ_ONLY, user(), python, "-c", "import asyncio"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


PYTHON = next(filter(is_for_others, [sys._base_executable, "/usr/bin/python3"]), None)


def closure(names: set[str]) -> set[str]:
    """These packages and all that they need on Linux."""
    packages = {package["name"]: package for package in LOCK["package"]}
    found: set[str] = set()
    while names:
        found |= names
        needed = {
            needed["name"]
            for name in names
            for needed in packages[name].get("dependencies", ())
            if "win32" not in needed.get("marker", "")
        }
        names = needed - found
    return found


def locked() -> tuple[set[str], set[str]]:
    """What the proxy needs, and what building it needs."""
    (project,) = (package for package in LOCK["package"] if package["name"] == "pilotlight")
    build = {needed["name"] for needed in project["dev-dependencies"]["build"]}
    return closure({"pilotlight"}), closure(build)


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest) -> Iterator[Path]:
    """What the second stage copies, made by the steps of the first.

    The layer with the packages is kept between two runs, as an engine would: it takes ten seconds.
    """
    python = PYTHON or sys._base_executable
    packages, code = BUILD.texts("RUN")
    made_of = (packages, (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"), python, sys.version)
    layer = request.config.cache.mkdir("image") / hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    folder = Path(tempfile.mkdtemp(prefix="pilotlight-image-"))
    folder.chmod(0o755)
    at = {INSTALLED: folder / "pilotlight", SOURCES: folder / "src", WHEELS: folder / "wheel"}
    programs = folder / "bin"
    programs.mkdir()
    for name, program in (("python", python), ("pip", BIN / "pip")):
        # No link: the environment would be linked to that.
        (programs / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    environ = {**os.environ, **BUILD.variables("ENV"), **BUILD.variables("ARG"), "PATH": f"{programs}:{os.defpath}"}
    try:
        copy_sources(at[SOURCES])
        if not layer.exists():
            run(packages, at, environ)
            shutil.rmtree(layer.parent)
            layer.parent.mkdir()
            shutil.copytree(at[INSTALLED], layer, symlinks=True)
        elif not at[INSTALLED].exists():
            shutil.copytree(layer, at[INSTALLED], symlinks=True)
        run(code, at, environ)
        yield at[INSTALLED]
    finally:
        shutil.rmtree(folder)


def copy_sources(folder: Path) -> None:
    """What the first stage copies."""
    for text in BUILD.texts("COPY"):
        *names, target = text.split()
        for name in names:
            here = folder / (name if target == "./" else target)
            here.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, here, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, here)


def test_hadolint_finds_nothing() -> None:
    hadolint = BIN / "hadolint"
    done = subprocess.run([hadolint, "--no-color", FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_are_of_one_pinned_python() -> None:
    assert BUILD.base == "${PYTHON_IMAGE} AS build"
    assert FINAL.base == "${PYTHON_IMAGE}"
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", ARGUMENTS["PYTHON_IMAGE"])


def test_the_final_stage_runs_as_a_number_without_a_shell_and_stops_on_sigterm() -> None:
    assert FINAL.texts("USER") == ["10001:10001"]
    assert FINAL.texts("RUN") == []
    assert [json.loads(text) for text in (*FINAL.texts("ENTRYPOINT"), *FINAL.texts("CMD"))] == [
        ["pilotlight"],
        ["serve"],
    ]
    assert FINAL.texts("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(health_command()) == ["python", "-I", "-m", "proxy.healthcheck"]


def health_command() -> str:
    (text,) = FINAL.texts("HEALTHCHECK")
    return text.partition(" CMD ")[2]


def test_its_labels_and_ports_are_those_of_the_program() -> None:
    labels, variables = FINAL.variables("LABEL"), FINAL.variables("ENV")
    assert FINAL.variables("ARG")["VERSION"] == __version__
    assert labels["org.opencontainers.image.version"] == "${VERSION}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    ports = [getattr(Settings(), name).rpartition(":")[2] for name in ("listen", "admin")]
    assert FINAL.texts("EXPOSE") == [" ".join(ports)]
    assert [variables["PILOTLIGHT_LISTEN"], variables["PILOTLIGHT_ADMIN"]] == [f"0.0.0.0:{port}" for port in ports]


def test_nothing_is_sent_to_the_engine_but_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {name for text in BUILD.texts("COPY") for name in text.split()[:-1]}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert any(fnmatch.fnmatch("proxy/__pycache__", rule) for rule in rules)


def test_what_only_building_needs_is_what_is_taken_out() -> None:
    needed, building = locked()
    (taken_out,) = re.findall(r"uninstall --yes\s+([^&]+?)\s*&&", BUILD.texts("RUN")[1])
    assert set(taken_out.split()) == building - needed


def test_it_has_the_locked_packages_and_nothing_else(installed: Path) -> None:
    program = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    done = subprocess.run(
        [installed / "bin" / "python", "-I", "-c", program], capture_output=True, text=True, check=True
    )
    found = {name.lower().replace("_", "-") for name in done.stdout.split()}
    assert found == locked()[0]


def test_everything_is_compiled_by_content(installed: Path) -> None:
    sources = [path for path in installed.rglob("*.py") if "site-packages" in path.parts]
    assert len(sources) > 500
    (tag,) = {path.suffixes[-2] for path in installed.rglob("proxy/__pycache__/*.pyc")}
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}{tag}.pyc"
        # PEP 552: a hash that is not compared with the source at each start; a time would be another one each build.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", source
    assert {int(path.lstat().st_mtime) for path in installed.rglob("*")} == {
        int(BUILD.variables("ARG")["SOURCE_DATE_EPOCH"])
    }


def status_of(child: Child) -> str:
    return Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")


@pytest.mark.skipif(PYTHON is None, reason="takes root, and a Python that every user may run")
async def test_it_serves_on_a_read_only_file_system_as_a_user_without_rights(installed: Path, tmp_path: Path) -> None:
    ollama, proxy, admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
    environ = {
        **FINAL.variables("ENV"),
        "PATH": f"{installed}/bin:{os.defpath}",
        "PILOTLIGHT_LISTEN": proxy,
        "PILOTLIGHT_ADMIN": admin,
        "PILOTLIGHT_UPSTREAM__URL": f"http://{ollama}",
        "PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "0",
    }
    (entry,) = json.loads(FINAL.texts("ENTRYPOINT")[0])
    program = (*READ_ONLY, user(), str(installed / "bin" / entry))

    async def is_well(*arguments: str) -> bool:
        asked = await asyncio.create_subprocess_exec(
            *READ_ONLY,
            user(),
            *json.loads(health_command()),
            *arguments,
            env=environ,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await asked.wait() == 0

    assert not await is_well()
    simulated = ["simulate", "--listen", ollama, "--load-scale", "100"]
    async with (
        Child(simulated, tmp_path / "ollama", environ, program=program),
        Child(["serve"], tmp_path / "proxy", environ, program=program) as serving,
        aiohttp.ClientSession() as session,
    ):
        await until_answered(is_well, 30)
        await until_answered(lambda: is_well(f"http://{ollama}/"), 30)
        async with session.post(
            f"http://{proxy}/api/chat",
            json={
                "model": "llama3.2:3b",
                "messages": [{"role": "user", "content": "hi"}],
                "options": {"num_predict": 3},
            },
        ) as reply:
            assert (reply.status, b'"done":true' in await reply.read()) == (200, True)
        status = status_of(serving)
        assert re.search(rf"^Uid:\t{user()}\t{user()}\t", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert serving._process is not None
        serving._process.terminate()
        await until(lambda: not serving.is_running, 30)
        assert serving._process.returncode == 0, serving.describe("wrote")


def test_the_stages_are_read_as_they_are_written() -> None:
    arguments, stages = read(
        'ARG A=1\n# ARG B=2\nFROM x AS y\nENV C=3 \\\n    D="4 5"\nRUN a \\\n  && b\nFROM z\nCMD ["e"]\n'
    )
    assert arguments == {"A": "1"}
    assert stages == [Stage("x AS y", [("ENV", 'C=3 D="4 5"'), ("RUN", "a && b")]), Stage("z", [("CMD", '["e"]')])]
    assert stages[0].variables("ENV") == {"C": "3", "D": "4 5"}

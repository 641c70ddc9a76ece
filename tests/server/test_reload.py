"""Settings that change while the proxy runs, by a signal and by their file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from proxy.admission.ratelimit import RateLimits
from proxy.edge.keys import Keys, hash_key
from proxy.observe.metrics import Metrics
from proxy.server.reload import Live, Reloader, Sources
from tests.peers import until
from tests.stage import chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxy.settings import Settings
    from tests.peers import Answering, Seen
    from tests.stage import Stage


def keys(*names: str) -> str:
    """The lines for the settings file; each key is its own name."""
    return "keys:\n" + "".join(f"  - {{name: {name}, hash: '{hash_key(name)}'}}\n" for name in names)


@dataclass
class Applied:
    """What a reloader handed over."""

    pending: list[str] = field(default_factory=list)
    seen: list[Settings] = field(default_factory=list)

    def __call__(self, settings: Settings) -> list[str]:
        self.seen.append(settings)
        return self.pending

    @property
    def names(self) -> list[list[str]]:
        return [[key.name for key in settings.keys] for settings in self.seen]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Scene:
    path: Path
    applied: Applied
    metrics: Metrics
    reloader: Reloader
    clock: Clock
    logged: list[Any]

    def gauges(self) -> tuple[float | None, float | None]:
        """Whether the last reload succeeded, and when one last did."""
        sample = self.metrics._registry.get_sample_value
        name = "pilotlight_config_last_reload"
        return sample(f"{name}_successful"), sample(f"{name}_timestamp_seconds")

    async def reloaded(self, count: int) -> None:
        await until(lambda: len(self.applied.seen) == count)

    async def told(self, event: str) -> dict[str, Any]:
        """The first line that begins so."""
        await until(lambda: any(line["event"].startswith(event) for line in self.logged))
        return next(line for line in self.logged if line["event"].startswith(event))


@contextlib.asynccontextmanager
async def running(reloader: Reloader) -> AsyncIterator[None]:
    task = asyncio.create_task(reloader.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def watching(folder: Path, text: str, **environ: str) -> AsyncIterator[Scene]:
    """A reloader whose watch has begun: the first change of the file has been seen."""
    path = folder / "pilotlight.yaml"
    path.write_text("", encoding="utf-8")
    metrics, applied, clock = Metrics(), Applied(), Clock()
    reloader = Reloader(Sources(path, environ, {}), applied, metrics, clock)
    with capture_logs() as logged:
        async with running(reloader):
            scene = Scene(path, applied, metrics, reloader, clock, logged)
            number = 0
            while not applied.seen:
                # Until the watch is there, nothing says so; each of these is another file to it.
                number += 1
                replace(path, f"{text}\n# {number}\n")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await scene.reloaded(1)
            await until(lambda: reloader._seen == reloader._signature())
            applied.seen.clear()
            logged.clear()
            yield scene


def replace(path: Path, text: str) -> None:
    """As editors and tools do that are careful."""
    fresh = path.with_name("fresh")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


# --- the file


async def test_a_file_that_is_renamed_into_place_is_read(tmp_path: Path) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        for number, name in enumerate(["b", "c"], 1):
            replace(scene.path, keys(name))
            await scene.reloaded(number)
        assert scene.applied.names == [["b"], ["c"]]


async def test_a_file_that_is_written_in_place_is_read_when_it_is_whole(tmp_path: Path) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        with scene.path.open("w", encoding="utf-8") as file:
            for line in keys("b", "c").splitlines(keepends=True):
                file.write(line)
                file.flush()
        await scene.reloaded(1)
        assert scene.applied.names == [["b", "c"]]


async def test_a_link_that_is_swapped_is_followed(tmp_path: Path) -> None:
    """A ConfigMap of Kubernetes: file -> ..data/file, ..data -> a folder that is swapped by a rename."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pilotlight.yaml").write_text(keys(name), encoding="utf-8")
    async with watching(tmp_path, keys("a")) as scene:
        (tmp_path / "..data").symlink_to("one")
        scene.path.unlink()
        scene.path.symlink_to("..data/pilotlight.yaml")
        await scene.reloaded(1)
        (tmp_path / "..next").symlink_to("two")
        (tmp_path / "..next").replace(tmp_path / "..data")
        await scene.reloaded(2)
        assert scene.applied.names == [["one"], ["two"]]


async def test_a_neighbour_of_the_file_is_none_of_its_changes(tmp_path: Path) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        (tmp_path / "other.yaml").write_text("listen: nonsense", encoding="utf-8")
        replace(scene.path, keys("b"))
        await scene.reloaded(1)
        assert [line["event"] for line in scene.logged] == ["settings reloaded"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("keys: [", "--config"),
        ("relay: {write_stall_s: -1}", "relay.write_stall_s"),
        (keys("same", "same"), "keys.1.name"),
        ("listen: 0.0.0.0:1", "listen"),
    ],
)
async def test_a_broken_file_changes_nothing_and_the_field_is_named(tmp_path: Path, text: str, name: str) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        scene.clock.now = 2000.0
        replace(scene.path, text)
        line = await scene.told("settings not reloaded")
        assert (line["field"], line["log_level"], len(scene.logged)) == (name, "error", 1)
        assert (scene.applied.seen, scene.gauges()) == ([], (0, 1000))
        replace(scene.path, keys("b"))
        await scene.told("settings reloaded")
        assert (scene.applied.names, scene.gauges()) == ([["b"]], (1, 2000))


async def test_a_file_that_is_emptied_counts_only_by_signal(tmp_path: Path) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        scene.path.write_text("", encoding="utf-8")
        assert "is empty" in (await scene.told("settings not reloaded"))["reason"]
        assert scene.applied.seen == []
        scene.reloader.request()
        await scene.reloaded(1)
        assert scene.applied.names == [[]]


async def test_a_file_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    async with watching(tmp_path, keys("a")) as scene:
        scene.path.unlink()
        scene.reloader.request()
        assert "cannot read" in (await scene.told("settings not reloaded"))["reason"]
        replace(scene.path, keys("b"))
        await scene.reloaded(1)


async def test_a_folder_that_cannot_be_watched_is_told_and_a_signal_still_counts(tmp_path: Path) -> None:
    applied = Applied()
    sources = Sources(tmp_path / "nowhere" / "pilotlight.yaml", {}, {})
    with capture_logs() as logged:
        reloader = Reloader(sources, applied, Metrics())
        async with running(reloader):
            await until(lambda: any("is not watched" in line["event"] for line in logged))
            (tmp_path / "nowhere").mkdir()
            (tmp_path / "nowhere" / "pilotlight.yaml").write_text(keys("a"), encoding="utf-8")
            reloader.request()
            await until(lambda: applied.names == [["a"]])


# --- the signal


async def test_a_signal_reads_the_same_sources_again(tmp_path: Path) -> None:
    path = tmp_path / "pilotlight.yaml"
    path.write_text("log: {level: error}", encoding="utf-8")
    applied = Applied()
    environ = {"PILOTLIGHT_LOG__FORMAT": "json"}
    reloader = Reloader(Sources(path, environ, {"models": [{"name": "flag"}]}), applied, Metrics())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloader.request)
    try:
        async with running(reloader):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: bool(applied.seen))
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
    (settings,) = applied.seen
    assert (settings.log.level, settings.log.format, settings.models[0].name) == ("error", "json", "flag")


async def test_signals_that_come_together_are_served_by_one_reading_or_two() -> None:
    applied = Applied()
    reloader = Reloader(Sources(None, {}, {}), applied, Metrics())
    async with running(reloader):
        for _ in range(100):
            reloader.request()
        await until(lambda: bool(applied.seen))
        await asyncio.sleep(0)
    assert len(applied.seen) <= 2


async def test_what_needs_a_restart_is_named_in_the_log() -> None:
    with capture_logs() as logged:
        reloader = Reloader(Sources(None, {}, {}), Applied(["listen"]), Metrics())
        async with running(reloader):
            reloader.request()
            await until(lambda: bool(logged))
    assert logged == [{"event": "settings reloaded", "needs_restart": ["listen"], "log_level": "info"}]


def test_without_a_file_nothing_is_loaded_to_watch_one() -> None:
    code = (
        "import asyncio, sys\n"
        "from proxy.observe.metrics import Metrics\n"
        "from proxy.server.reload import Reloader, Sources\n"
        "async def main():\n"
        "    reloader = Reloader(Sources(None, {}, {}), lambda settings: [], Metrics())\n"
        "    reloader.request()\n"
        "    try:\n"
        "        await asyncio.wait_for(reloader.run(), 0.2)\n"
        "    except TimeoutError:\n"
        "        assert not {'watchfiles', 'anyio'} & set(sys.modules)\n"
        "asyncio.run(main())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# --- what holds at once


class Lives:
    """A proxy, and the settings that it was started with."""

    def __init__(self, stage: Stage, **flags: Any) -> None:
        self.keys = Keys([], b"secret")
        self.limits = RateLimits(0, 1)
        self.flags = {"upstream": {"url": stage.upstream.url}, "models": [{"name": "tiny"}], **flags}
        self.live = Live(
            self.settings(),
            replace_keys=lambda settings: self.keys.replace(settings.keys),
            limits=self.limits,
            residency=stage.proxy.residency,
        )

    def settings(self, **more: Any) -> Settings:
        return Sources(None, {}, {**self.flags, **more}).load()

    def apply(self, **more: Any) -> list[str]:
        return self.live.apply(self.settings(**more))


async def answer(seen: Seen, reply: Answering) -> None:
    reply.json(chat_end())


KEY = {"name": "a", "hash": hash_key("a")}


async def test_keys_and_rates_hold_at_once_and_nothing_else_is_pending() -> None:
    async with staged(answer) as stage:
        lives = Lives(stage)
        assert lives.apply(keys=[KEY], rate_limit={"rate_per_s": 2}) == []
        assert lives.keys.find("a", 0.0) is not None
        assert [lives.limits.take("x", 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
        assert lives.apply() == []
        assert lives.keys.find("a", 0.0) is None
        assert lives.limits.take("x", 0.0) == 0.0


async def test_limits_are_forgotten_only_when_figures_change() -> None:
    async with staged(answer) as stage:
        lives = Lives(stage, rate_limit={"rate_per_s": 1, "burst": 1})
        lives.limits.change(1, 1)
        lives.limits.take("x", 0.0)
        lives.apply(models=[{"name": "tiny", "keep_alive": "10m"}])
        assert lives.limits.take("x", 0.0) > 0
        lives.apply(keys=[{**KEY, "rate_per_s": 5}])
        assert lives.limits.take("x", 0.0) == 0


async def test_the_rest_is_named_until_it_is_as_it_was_again() -> None:
    async with staged(answer) as stage:
        lives = Lives(stage)
        changes = {"relay": {"write_stall_s": 1}, "edge": {"hosts": ["a"]}, "log": {"level": "error"}, "keys": [KEY]}
        for _ in range(2):
            assert lives.apply(**changes) == ["relay.write_stall_s", "edge.hosts", "log.level"]
        assert lives.apply(preset="large") == [
            "upstream.max_idle",
            "scheduler.max_queue",
            "cache.max_entries",
            "cache.ttl_s",
        ]
        assert lives.apply() == []
        assert lives.live.settings == lives.settings()


async def test_keys_are_not_taken_away_where_only_a_restart_would_make_that_safe() -> None:
    async with staged(answer) as stage:
        lives = Lives(stage, listen="0.0.0.0:1", keys=[KEY])
        lives.keys.replace(lives.settings().keys)
        with pytest.raises(Exception, match=r"listen: .*until a restart"):
            lives.apply(listen="127.0.0.1:1", keys=[])
        assert lives.keys.find("a", 0.0) is not None


async def test_models_that_cannot_be_kept_change_no_keys_either() -> None:
    async with staged(answer) as stage:
        lives = Lives(stage)
        clash = [{"name": "tiny"}, {"name": "tiny:again", "options": {"num_ctx": 512}}]
        runner = next(iter(stage.proxy.residency._runners))
        runner.names.add("tiny:again")
        with pytest.raises(Exception, match=r"models\.1\.options"):
            lives.apply(models=clash, keys=[KEY])
        assert lives.keys.find("a", 0.0) is None


async def test_who_shares_a_run_is_pending_where_that_depends_on_the_models() -> None:
    refuse = [{"name": "tiny", "long_prompts": "refuse"}]
    async with staged(answer) as stage:
        assert Lives(stage).apply(models=refuse) == []
        lives = Lives(stage, share_identical=True)
        assert [lives.apply(models=refuse) for _ in range(2)] == [["models.long_prompts"]] * 2


async def test_no_stream_is_dropped_by_any_change() -> None:
    going_on = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"))
        await going_on.wait()
        reply.frames(chat_end())
        reply.end()

    async with staged(script) as stage, stage.client() as asking:
        asking.post("/api/chat", chat())
        assert (await asking.head())[0] == 200
        first = await asking.chunk()
        lives = Lives(stage, keys=[KEY])
        assert lives.apply(keys=[], rate_limit={"rate_per_s": 0.001, "burst": 1}, models=[{"name": "other"}]) == []
        going_on.set()
        pieces = [first]
        while piece := await asking.chunk():
            pieces.append(piece)
        assert b'"done":true' in pieces[-1]
        assert [row["name"] for row in stage.proxy.residency.models() if row["kept"]] == ["other:latest"]

"""Settings while the proxy runs: read anew on SIGHUP and when their file changes, put in effect where that is possible.

What cannot be used changes nothing: the new settings are judged whole, and once more together with those that only a
restart changes, before the first of them holds. No stream is touched by any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from proxy.errors import ConfigError
from proxy.settings import Settings, load
from proxy.settings.model import Part
from proxy.settings.rules import refuse_impossible
from proxy.settings.values import burst_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from proxy.admission.ratelimit import RateLimits
    from proxy.observe.metrics import Metrics
    from proxy.residency.service import Residency

_log: Any = structlog.get_logger("proxy.server")

# A file that is written in place is read when nobody has written for so long.
_QUIET_MS: Final = 200
_LONGEST_UNREST_MS: Final = 2_000
# What the system does not tell (a network file system, the target of a symbolic link) is seen this late.
_LOOK_EVERY_MS: Final = 5_000

Signature = tuple[int, int, int, int]


class Sources(NamedTuple):
    """Where the settings came from at the start, and come from again; as for ``proxy.settings.load``."""

    config: Path | None
    environ: Mapping[str, str]
    flags: Mapping[str, Any]

    def load(self) -> Settings:
        return load(self.config, self.environ, self.flags)


class Reloader:
    """Reads the settings anew when that is asked for, one time after the other.

    Args:
        sources: Where from.
        apply: Puts settings in effect, and returns the names of those that need a restart. It may raise ``ConfigError``
            where it has changed nothing.
        metrics: Told how it went.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        sources: Sources,
        apply: Callable[[Settings], list[str]],
        metrics: Metrics,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources = sources
        self._apply = apply
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._is_asked = False
        self._wanted = asyncio.Event()
        self._folder = None if sources.config is None else sources.config.absolute().parent
        self._seen = self._signature()
        metrics.settings_read(True, wall_clock())

    def __repr__(self) -> str:
        return f"<Reloader {self._sources.config or 'without a file'}>"

    def request(self) -> None:
        """Read them as soon as possible: the handler of SIGHUP."""
        self._is_asked = True
        self._wanted.set()

    async def run(self) -> None:
        """Serve requests, and watch the file where there is one, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(), name="reload")
            if self._folder is not None:
                group.create_task(self._watch(self._folder), name="watch settings")

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            is_asked, self._is_asked = self._is_asked, False
            await self._reload(is_asked)

    async def _reload(self, is_asked: bool) -> None:
        self._seen = self._signature()
        try:
            if not is_asked:
                self._refuse_emptied()
            # In a thread: a thousand keys take the YAML reader a second, in which no token would be relayed.
            settings = await asyncio.to_thread(self._sources.load)
            if self._seen != self._signature():
                # It was written meanwhile, so this may be half of the one and half of the other.
                self._wanted.set()
                self._is_asked = self._is_asked or is_asked
                return
            pending = self._apply(settings)
        except ConfigError as error:
            self._metrics.settings_read(False, self._wall_clock())
            _log.error("settings not reloaded; nothing has changed", field=error.field, reason=error.message)
            return
        self._metrics.settings_read(True, self._wall_clock())
        more = {"needs_restart": pending} if pending else {}
        _log.info("settings reloaded", **more)

    def _refuse_emptied(self) -> None:
        """A file that is written in place is empty for a moment, and an empty one is valid: no keys, no models."""
        if self._seen is not None and self._seen[3] == 0:
            raise ConfigError("--config", f"{self._sources.config} is empty; SIGHUP takes it all the same")

    def _signature(self) -> Signature | None:
        """What changes when the file does; ``None`` while it is not there, as in the middle of a replacement."""
        if self._sources.config is None:
            return None
        try:
            found = self._sources.config.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    async def _watch(self, folder: Path) -> None:
        # Imported late: without a file there is no need of it, and it takes 2 MB.
        from watchfiles import awatch

        # The folder, because a file that is replaced is another file: by rename, as editors do, or by a symbolic
        # link beside it, as Kubernetes does.
        changes = awatch(
            folder,
            watch_filter=None,
            recursive=False,
            debounce=_LONGEST_UNREST_MS,
            step=_QUIET_MS,
            rust_timeout=_LOOK_EVERY_MS,
            yield_on_timeout=True,
        )
        try:
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    signature = self._signature()
                    if signature is not None and signature != self._seen:
                        self._wanted.set()
        except (OSError, RuntimeError) as error:
            # No inotify watches left, for instance.
            _log.warning("the settings file is not watched; SIGHUP has it read", reason=str(error))


class Live:
    """What can change without a restart: keys, rates, kept models.

    Args:
        settings: Those in effect.
        replace_keys: Makes the settings' keys those that are looked up.
        limits: The buckets.
        residency: Keeps models.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        replace_keys: Callable[[Settings], None],
        limits: RateLimits,
        residency: Residency,
    ) -> None:
        self._settings = settings
        self._replace_keys = replace_keys
        self._limits = limits
        self._residency = residency
        # Which requests share a run is decided with the names of the start (``relay.memory``).
        self._alone_at_start = _alone(settings)

    @property
    def settings(self) -> Settings:
        """Those in effect now."""
        return self._settings

    def apply(self, wanted: Settings) -> list[str]:
        """Put in effect what can be.

        Returns:
            The names of what differs and needs a restart, in the order of the settings.

        Raises:
            ConfigError: They cannot be used, or not together with what needs a restart; nothing has changed then.
        """
        before = self._settings
        after = before.model_copy(update={name: getattr(wanted, name) for name in _LIVE})
        try:
            refuse_impossible(after)
        except ConfigError as error:
            raise ConfigError(error.field, f"{error.message} (until a restart, the rest is as it was)") from None
        # The only one that may refuse goes first.
        if after.models != before.models:
            self._residency.keep(after.models)
        if after.keys != before.keys:
            self._replace_keys(after)
        if _rates(after) != _rates(before):
            self._limits.change(after.rate_limit.rate_per_s, burst(after))
        self._settings = after
        pending = [".".join(path) for path in _differences(after, wanted)]
        if after.share_identical and _alone(after) != self._alone_at_start:
            pending.append("models.long_prompts")
        return pending


_LIVE: Final = ("keys", "rate_limit", "models")


def burst(settings: Settings) -> int:
    """The common burst, for clients without one of their own."""
    return burst_of(settings.rate_limit.rate_per_s, settings.rate_limit.burst)


def _rates(settings: Settings) -> tuple[object, ...]:
    """All that the buckets were filled by; a debt at one rate means nothing at another."""
    return settings.rate_limit, [(key.name, key.rate_per_s, key.burst) for key in settings.keys]


def _alone(settings: Settings) -> set[str]:
    return {model.name for model in settings.models if model.long_prompts != "cut"}


def _differences(one: Part, other: Part, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of what differs; a list counts as one thing."""
    for name, field in type(one).model_fields.items():
        mine, theirs = getattr(one, name), getattr(other, name)
        here = (*path, field.alias or name)
        # A preset has no effect but the sizes that it fills in, and those have names of their own.
        if mine == theirs or here == ("preset",):
            continue
        if isinstance(mine, Part) and isinstance(theirs, Part):
            yield from _differences(mine, theirs, here)
        else:
            yield here

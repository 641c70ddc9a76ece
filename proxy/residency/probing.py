"""Asking, once per model and server, whether generate and chat render the same prompt.

Rendering needs the model loaded (v0.24.0, server/routes.go: the runner is scheduled before ``_debug_render_only`` is
looked at), so the question is put in the background once it is, with the options that it was loaded with. Until the
answer is there, requests stay generate.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from proxy.errors import PilotlightError
from proxy.rewrite.probe import probe_bodies, same_render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.residency.catalogue import Catalogue
    from proxy.residency.runner import Runner
    from proxy.rewrite.facts import ModelFacts
    from proxy.upstream.ollama import Ollama

_log: Any = structlog.get_logger("pilotlight.residency")


class Prober:
    """Owns the probes under way.

    Args:
        ollama: Asked.
        catalogue: Told.
        enabled: ``rewrite.generate_to_chat``.
        on_done: Called with the runner after each probe, however it ended.
    """

    def __init__(
        self, ollama: Ollama, catalogue: Catalogue, *, enabled: bool, on_done: Callable[[Runner], None]
    ) -> None:
        self._ollama = ollama
        self._catalogue = catalogue
        self._enabled = enabled
        self._on_done = on_done
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Prober {sorted(self._tasks)}>"

    def start(self, runner: Runner, facts: ModelFacts, options: Mapping[str, object]) -> None:
        """Probe a model that is loaded, unless it was or will never be rewritten.

        Args:
            options: What a request by this name carries, so that rendering does not load it anew.
        """
        if not self._enabled or facts.same_render is not None or facts.name in self._tasks:
            return
        if facts.remote or facts.has_messages or "completion" not in facts.capabilities:
            return
        task = asyncio.create_task(self._probe(runner, facts, dict(options)), name=f"probe {facts.name}")
        self._tasks[facts.name] = task
        task.add_done_callback(lambda _: self._tasks.pop(facts.name, None))

    def give_way(self, runner: Runner) -> bool:
        """A client unloads this model. Returns whether a probe was given up for it."""
        tasks = [task for name, task in self._tasks.items() if name in runner.names]
        for task in tasks:
            task.cancel()
        return bool(tasks)

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks)

    async def join(self) -> None:
        """Wait for the probes under way."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe(self, runner: Runner, facts: ModelFacts, options: Mapping[str, object]) -> None:
        keep_alive = runner.kept.keep_alive if runner.kept is not None else None
        generate, chat = probe_bodies(facts.name, options, keep_alive)
        try:
            rendered = (
                await self._ollama.render("/api/generate", generate),
                await self._ollama.render("/api/chat", chat),
            )
        except PilotlightError:
            return
        finally:
            self._on_done(runner)
        same = same_render(*rendered)
        self._catalogue.on_probed(facts, same)
        if same:
            _log.debug("generate and chat render the same prompt", model=facts.name)
        else:
            _log.info("generate stays generate: chat renders another prompt, or cannot be asked", model=facts.name)

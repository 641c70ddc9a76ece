"""What the proxy knows about models: ``/api/show``, asked once per model, and the digests of ``/api/tags``."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final

from proxy.errors import PilotlightError
from proxy.rewrite.facts import ModelFacts, facts_from_show
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from proxy.observe.metrics import Metrics
    from proxy.upstream.ollama import Ollama, TagEntry

# Ollama's own models are as many as it has stored; this is against one with thousands.
_MOST_REMEMBERED: Final = 1_000


def _untold(digest: str) -> None:
    """Nobody else remembers anything of models."""


class Catalogue:
    """Remembers models until they may have changed.

    Args:
        ollama: Asked where nothing is remembered.
        metrics: Told of hits and misses.

    Attributes:
        on_changed: Told the digest of each model that is forgotten, because it may be another one now.
    """

    def __init__(self, ollama: Ollama, metrics: Metrics) -> None:
        self._ollama = ollama
        self._metrics = metrics
        self._facts: dict[str, ModelFacts] = {}
        self._digests: dict[str, str] | None = None
        self._version = ""
        self._same_render: dict[tuple[str, str], bool] = {}
        self._asking: dict[str, asyncio.Task[ModelFacts | None]] = {}
        self._generation = 0
        self.on_changed: Callable[[str], None] = _untold

    def __repr__(self) -> str:
        return f"<Catalogue {len(self._facts)} models, {len(self._asking)} being asked for>"

    def cached(self, name: str) -> ModelFacts | None:
        """What is remembered of a model, without asking."""
        return self._facts.get(canonical(name))

    def recalled(self, name: str) -> ModelFacts | None:
        """What is remembered of a model, counted as a look-up where it is found; else :meth:`facts` is to be asked."""
        known = self._facts.get(canonical(name))
        if known is not None:
            self._metrics.cache_lookup("show", True)
        return known

    def holds(self, facts: ModelFacts) -> bool:
        """Whether this is what is remembered of the model, counted as a look-up where it is."""
        if self._facts.get(facts.name) is not facts:
            return False
        self._metrics.cache_lookup("show", True)
        return True

    async def facts(self, name: str) -> ModelFacts | None:
        """What is known of a model; asks Ollama once, whoever else asks for the same meanwhile.

        Returns:
            ``None`` where Ollama does not have it, or does not answer: then nothing is rewritten.
        """
        name = canonical(name)
        known = self._facts.get(name)
        self._metrics.cache_lookup("show", known is not None)
        if known is not None:
            return known
        task = self._asking.get(name)
        if task is None:
            # A task of its own: the client that asked first may leave while others wait for the same answer.
            task = self._asking[name] = asyncio.create_task(self._ask(name), name=f"show {name}")
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    def forget(self, name: str | None = None) -> None:
        """A model was created, copied, deleted or pulled; ``None``: any may have been."""
        self._generation += 1
        self._digests = None
        gone = list(self._facts.values()) if name is None else [self._facts.get(canonical(name))]
        for facts in gone:
            if facts is not None:
                del self._facts[facts.name]
                self.on_changed(facts.digest)

    def on_tags(self, tags: Iterable[TagEntry]) -> list[str]:
        """Take in what is stored now.

        Returns:
            The names that are gone or have another digest, and were therefore forgotten.
        """
        digests = {canonical(tag.name): tag.digest for tag in tags}
        changed = [
            name for name, facts in self._facts.items() if facts.digest and digests.get(name, "") != facts.digest
        ]
        for name in changed:
            self.on_changed(self._facts.pop(name).digest)
        if changed:
            self._generation += 1
        self._digests = digests
        return changed

    @property
    def version(self) -> str:
        """Ollama's, as it was last told; "" before that."""
        return self._version

    def on_version(self, version: str) -> None:
        """Another server may render prompts and answer differently, so each model is probed again."""
        if version != self._version:
            self._version = version
            for facts in self._facts.values():
                self.on_changed(facts.digest)
            self._facts = {name: dataclasses.replace(facts, same_render=None) for name, facts in self._facts.items()}

    def on_probed(self, facts: ModelFacts, same_render: bool) -> None:
        """Remember whether generate and chat render the same prompt for this digest on this server."""
        self._same_render[(self._version, facts.digest or facts.name)] = same_render
        current = self._facts.get(facts.name)
        if current is not None and current.digest == facts.digest:
            self._facts[facts.name] = dataclasses.replace(current, same_render=same_render)

    async def aclose(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str) -> ModelFacts | None:
        generation = self._generation
        try:
            show = await self._ollama.show(name)
            if show is None:
                return None
            digests: Mapping[str, str] | None = self._digests
            if digests is None or name not in digests:
                self.on_tags(await self._ollama.tags())
                digests = self._digests or {}
        except PilotlightError:
            return None
        facts = facts_from_show(name, digests.get(name, ""), show)
        same_render = self._same_render.get((self._version, facts.digest or facts.name))
        if same_render is not None:
            facts = dataclasses.replace(facts, same_render=same_render)
        # What was read while something changed may be the old model: used for this request, not remembered.
        if generation == self._generation:
            if len(self._facts) >= _MOST_REMEMBERED:
                self._facts.clear()
            self._facts[name] = facts
        return facts

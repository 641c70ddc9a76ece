"""Every asynchronous test runs on uvloop, as the program does; no property fails because the machine is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import uvloop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

hypothesis.settings.register_profile("pilotlight", deadline=None)
hypothesis.settings.load_profile("pilotlight")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}

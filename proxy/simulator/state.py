"""The state of one simulated server, and what it has seen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.simulator.engine.faults import Faults, Gate
from proxy.simulator.engine.scheduler import Machine, Scheduler

if TYPE_CHECKING:
    from proxy.simulator.engine.runner import Pace
    from proxy.simulator.engine.store import Store

VERSION = "0.24.0"
_REMEMBERED = 10_000


@dataclass(slots=True)
class SeenRequest:
    """A request as it arrived. Times are ``time.monotonic`` seconds; ``left_s`` is set when the client left early."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    arrived_s: float
    body: bytes = b""
    body_bytes: int = 0
    prompt: str = ""
    status: int = 0
    left_s: float | None = None
    finished_s: float | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(slots=True)
class Environment:
    """Switches that a real server takes from its environment.

    Attributes:
        no_cloud: OLLAMA_NO_CLOUD.
        checks_host: whether Host is checked, as a server bound to loopback does.
        origins: OLLAMA_ORIGINS.
        library: what /api/pull finds; None for a machine without a network.
        pull_bytes_per_s: how fast pulls come.
    """

    no_cloud: bool = False
    checks_host: bool = True
    origins: tuple[str, ...] = ()
    library: Store | None = None
    pull_bytes_per_s: float = 200e6


class ServerState:
    """Everything that outlives a request."""

    def __init__(self, store: Store, machine: Machine, pace: Pace, environment: Environment | None = None) -> None:
        self.store = store
        self.pace = pace
        self.environment = environment or Environment()
        self.faults = Faults()
        self.gate = Gate()
        self.scheduler = Scheduler(machine, pace, self.faults, self.gate)
        self.requests: list[SeenRequest] = []

    @property
    def machine(self) -> Machine:
        """What the machine has."""
        return self.scheduler.machine

    def restart(self) -> None:
        """A new process: nothing is loaded, what was seen stays."""
        loads = self.scheduler.loads
        self.scheduler = Scheduler(self.machine, self.pace, self.faults, self.gate)
        self.scheduler.loads = loads

    def remember(self, request: SeenRequest) -> None:
        """Add a request; of very many the oldest are forgotten."""
        if len(self.requests) >= 2 * _REMEMBERED:
            del self.requests[:_REMEMBERED]
        self.requests.append(request)

    def disconnects(self) -> list[SeenRequest]:
        """Requests whose client left before the answer was complete."""
        return [request for request in self.requests if request.left_s is not None]


def now_s() -> float:
    """The clock of ``SeenRequest``."""
    return time.monotonic()

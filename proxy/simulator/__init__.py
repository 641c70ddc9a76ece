"""A simulated Ollama: a server of our own that behaves like Ollama 0.24.0 where a proxy can tell.

It is called simulated wherever a user sees it; its speeds are made up and are no measurement of Ollama.
"""

from proxy.simulator.engine.faults import KINDS as FAULT_KINDS
from proxy.simulator.engine.faults import Fault
from proxy.simulator.engine.scheduler import LoadRecord, Machine
from proxy.simulator.profiles import Profile, ProfileError, build_profile, read_profile
from proxy.simulator.simulated import SimulatedOllama
from proxy.simulator.state import Environment, SeenRequest

__all__ = [
    "FAULT_KINDS",
    "Environment",
    "Fault",
    "LoadRecord",
    "Machine",
    "Profile",
    "ProfileError",
    "SeenRequest",
    "SimulatedOllama",
    "build_profile",
    "read_profile",
]

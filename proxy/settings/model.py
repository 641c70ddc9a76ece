"""The settings: one frozen model, built once at start and handed down by constructors.

Here is what each setting is called, its default, its bounds and one sentence about it; where values come from (file,
environment, flags) is ``sources``. The settings page is written from this model. A name that is not here is refused,
so a setting of a part that does not exist can never be believed to work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from proxy.settings.sizes import parse_size

KeepAlive = int | float | str
"""The JSON value that is sent to Ollama: seconds, or a Go duration such as ``"10m"``; negative means for ever."""

Port = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A group of settings: frozen, and closed against names that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Upstream(Part):
    url: str = Field("http://127.0.0.1:11434", description="Where Ollama listens.")
    connect_timeout_s: float = Field(2, gt=0, le=60, description="Longest wait for a connection to Ollama.")


class WarmEntry(Part):
    system: str = Field("", description="System prompt that is read into the prompt cache.")
    tools: list[dict[str, Any]] | None = Field(None, description="Tools that stand beside it, as /api/chat takes them.")


class KeptModel(Part):
    name: str = Field(min_length=1, description="Model name as Ollama knows it.")
    keep_alive: KeepAlive = Field(-1, description="How long Ollama keeps it after a request.")
    options: dict[str, Any] = Field({}, description="Runner options put into every request for it, its load included.")
    max_num_ctx: int | None = Field(None, ge=1, description="Largest context a client can make it grow to.")
    long_prompts: Literal["cut", "tell", "refuse", "grow"] = Field("cut", description="Prompts over the context.")
    warm: tuple[WarmEntry, ...] = Field((), description="Prompts that are kept in the prompt cache.")


class Defaults(Part):
    keep_alive: KeepAlive | None = Field(None, description="Put in where the client sent none.")
    options: dict[str, Any] = Field({}, description="Runner options for models that are not listed.")


class Rewrite(Part):
    generate_to_chat: bool = Field(True, description="Send /api/generate as /api/chat where the prompt is the same.")
    own_context: bool = Field(True, description="Issue a context of our own for rewritten calls.")
    client_keep_alive: Literal["ignore", "respect", "extend"] = Field("ignore", description="For kept models.")
    client_options: Literal["merge", "enforce", "respect"] = Field("merge", description="Runner options of clients.")


class ResidencySettings(Part):
    check_every_s: float = Field(5, gt=0, le=3600, description="Pause between two looks at what is loaded.")
    load_timeout_s: float = Field(600, gt=0, le=86400, description="Longest wait for a load.")
    return_after_s: float = Field(60, ge=0, le=86400, description="Rest before a displaced model comes back.")
    warmup: bool = Field(True, description="Load and warm the kept models at start.")
    pull_missing: bool = Field(False, description="Pull kept models that Ollama does not have.")


class RelaySettings(Part):
    stream_upstream: bool = Field(True, description="Ask Ollama for a stream where the client did not.")
    idle_timeout_s: float = Field(0, ge=0, le=86400, description="Longest silence within a reply; 0: no limit.")
    write_stall_s: float = Field(60, ge=0, le=86400, description="Longest time a client reads nothing; 0: no limit.")


class ShutdownSettings(Part):
    lame_duck_s: float = Field(2, ge=0, le=600, description="Time between not ready and no new connections.")
    grace_s: float = Field(30, ge=0, le=3600, description="Time that running streams have to finish.")


class EdgeSettings(Part):
    max_body: Annotated[int, BeforeValidator(parse_size)] = Field(256 * 1024**2, gt=0, description="Largest body read.")

    @property
    def max_body_bytes(self) -> int:
        return self.max_body


class LogSettings(Part):
    format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, JSON otherwise.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")


class Settings(Part):
    """All settings. ``ollama_num_parallel`` is told by the environment and is not a setting."""

    listen: Port = Field("127.0.0.1:11435", description="Address of the proxy.")
    admin: Port = Field("127.0.0.1:11436", description="Address of the admin port.")
    upstream: Upstream = Field(Upstream())
    models: tuple[KeptModel, ...] = Field((), description="Models that are kept resident, most important first.")
    defaults: Defaults = Field(Defaults())
    rewrite: Rewrite = Field(Rewrite())
    residency: ResidencySettings = Field(ResidencySettings())
    relay: RelaySettings = Field(RelaySettings())
    shutdown: ShutdownSettings = Field(ShutdownSettings())
    edge: EdgeSettings = Field(EdgeSettings())
    log: LogSettings = Field(LogSettings())

    _ollama_num_parallel: int = PrivateAttr(default=1)

    @property
    def ollama_num_parallel(self) -> int:
        """Slots that Ollama has for each model, where its environment told us; else its default of 1."""
        return self._ollama_num_parallel

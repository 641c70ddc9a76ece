"""The settings: one frozen model, built once at start and handed down by constructors.

Here is what each setting is called, its default, its bounds and what it means. Where values come from is ``sources``;
which of them do not go together is ``rules``. The settings page and the example files are written from this model. A
name that is not here is refused, so a setting of a part that does not exist can never be believed to work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr
from typing_extensions import TypedDict

from proxy.settings.address import parse_address
from proxy.settings.sizes import format_size, parse_size
from proxy.wire.durations import parse_keep_alive

# Ollama reads whole numbers into Go's int, but a runner holds them in 32 bits.
INT32_MAX = 2**31 - 1


def _refuse_bool(value: object) -> object:
    """YAML's ``yes`` is a mistake where a number belongs, though Python would take it for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _whole_where_whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _check_address(text: str) -> str:
    parse_address(text)
    return text


def _check_name(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("must be the name of a model, without spaces")
    return text


def _check_url(text: str) -> str:
    if not text.isprintable() or " " in text:
        raise ValueError("must be a URL without spaces")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must have no user, path or query: Ollama's API starts at the root")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("has a port that is not a number from 0 to 65535") from None
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}"


def _check_keep_alive(value: object) -> object:
    if value is not None:
        parse_keep_alive(value)
    return value


Seconds = Annotated[float, BeforeValidator(_refuse_bool), PlainSerializer(_whole_where_whole)]
Count = Annotated[int, BeforeValidator(_refuse_bool)]
ListenAddress = Annotated[str, AfterValidator(_check_address)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
KeepAlive = int | float | str
"""The JSON value that is sent to Ollama: seconds, or a Go duration such as ``"10m"``; negative means for ever."""


class RunnerOptions(TypedDict, total=False):
    """The options whose change makes Ollama load the model anew (v0.24.0, api/types.go, ``type Runner``).

    Sampling options such as ``temperature`` are the client's and not set here.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    num_ctx: Annotated[Count, Field(ge=1, le=INT32_MAX)]
    num_batch: Annotated[Count, Field(ge=1, le=INT32_MAX)]
    num_gpu: Annotated[Count, Field(ge=-1, le=INT32_MAX)]
    main_gpu: Annotated[Count, Field(ge=0, le=INT32_MAX)]
    use_mmap: bool
    num_thread: Annotated[Count, Field(ge=0, le=INT32_MAX)]


class Part(BaseModel):
    """A group of settings: frozen, and closed against names that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Upstream(Part):
    """Where Ollama is."""

    url: Annotated[str, AfterValidator(_check_url)] = Field(
        "http://127.0.0.1:11434",
        description="Where Ollama listens. `OLLAMA_HOST` is not read: clients set it to the proxy.",
    )
    connect_timeout_s: Seconds = Field(2, gt=0, le=60, description="Longest wait for a connection to Ollama.")


class WarmEntry(Part):
    """A prompt that is read into the prompt cache before anyone asks."""

    system: str = Field("", description="The system prompt.")
    tools: list[dict[str, Any]] | None = Field(
        None, description="Tools that the clients send beside it, as `/api/chat` takes them."
    )


class KeptModel(Part):
    """A model that is kept resident."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(description="The model's name as Ollama knows it.")
    keep_alive: Annotated[KeepAlive, BeforeValidator(_check_keep_alive)] = Field(
        -1,
        description="How long Ollama keeps it after a request: "
        "seconds, a Go duration such as `10m`, or negative: for ever.",
    )
    options: RunnerOptions = Field(
        default_factory=RunnerOptions,
        description="Runner options put into every request for it, its load included: "
        "`num_ctx`, `num_batch`, `num_gpu`, `main_gpu`, `use_mmap`, `num_thread`.",
    )
    max_num_ctx: Count | None = Field(
        None,
        ge=1,
        le=INT32_MAX,
        description="Tokens of context up to which a client's request can make it grow; "
        "empty: as many as the model was trained with.",
    )
    long_prompts: Literal["cut", "tell", "refuse", "grow"] = Field(
        "cut",
        description="A prompt longer than the context is `cut` by Ollama without a word; or cut with a warning header "
        "(`tell`), refused with Ollama's 400 (`refuse`), or given more context (`grow`).",
    )
    warm: tuple[WarmEntry, ...] = Field((), description="Prompts that are kept in its prompt cache.")


class Defaults(Part):
    """What holds for every model that is not listed under `models`."""

    keep_alive: Annotated[KeepAlive | None, BeforeValidator(_check_keep_alive)] = Field(
        None,
        description="Put in where the client sent none. Empty: the value of `OLLAMA_KEEP_ALIVE` where that is set, "
        "else nothing is put in.",
    )
    options: RunnerOptions = Field(
        default_factory=RunnerOptions, description="Runner options put into every request, as for `models`."
    )


class Rewrite(Part):
    """What is changed in a request."""

    generate_to_chat: bool = Field(
        True, description="Send `/api/generate` as `/api/chat` where the prompt is certain to be the same."
    )
    own_context: bool = Field(
        True,
        description="Answer rewritten calls with a `context` of our own making. "
        "When off, a call stays `/api/generate` so that it gets Ollama's.",
    )
    client_keep_alive: Literal["ignore", "respect", "extend"] = Field(
        "ignore",
        description="For kept models, whether a client's `keep_alive` is ignored, respected, or taken when longer.",
    )
    client_options: Literal["merge", "enforce", "respect"] = Field(
        "merge",
        description="Whether a client's runner options are merged into one set per model (only `num_ctx` can grow), "
        "replaced by the configured ones, or respected at the price of reloads.",
    )


class ResidencySettings(Part):
    """How models are kept resident."""

    check_every_s: Seconds = Field(5, gt=0, le=3600, description="Pause between two looks at what is loaded.")
    load_timeout_s: Seconds = Field(600, gt=0, le=86_400, description="Longest time a load may take.")
    return_after_s: Seconds = Field(
        60, ge=0, le=86_400, description="Rest of the displacing model before a displaced one comes back unasked."
    )
    warmup: bool = Field(True, description="Load and warm the kept models at start. Off: nothing until asked for.")
    pull_missing: bool = Field(False, description="Pull kept models that Ollama does not have.")


class RelaySettings(Part):
    """How replies are passed on."""

    stream_upstream: bool = Field(
        True, description='Ask Ollama for a stream where the client said `"stream": false`, and put it together.'
    )
    idle_timeout_s: Seconds = Field(
        0, ge=0, le=86_400, description="Longest silence of Ollama within a reply; 0: no limit."
    )
    write_stall_s: Seconds = Field(
        60, ge=0, le=86_400, description="Longest time that a client with a reply under way reads nothing; 0: no limit."
    )


class ShutdownSettings(Part):
    """How the proxy stops."""

    lame_duck_s: Seconds = Field(
        2, ge=0, le=600, description="Time from saying *not ready* to refusing new connections."
    )
    grace_s: Seconds = Field(30, ge=0, le=3600, description="Time after that for running requests to finish.")


class EdgeSettings(Part):
    """What is let in."""

    max_body: Size = Field(
        256 * 2**20, ge=1024, description="Largest request body that is read for rewriting; uploads are not limited."
    )

    @property
    def max_body_bytes(self) -> int:
        return self.max_body


class LogSettings(Part):
    """What is written to the log."""

    format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, JSON otherwise.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level that is written.")


class Settings(Part):
    """All settings."""

    listen: ListenAddress = Field(
        "127.0.0.1:11435", description="Address of the proxy. All of its paths belong to Ollama's API."
    )
    admin: ListenAddress = Field("127.0.0.1:11436", description="Address of health, metrics and recent requests.")
    upstream: Upstream = Field(default_factory=Upstream)
    models: tuple[KeptModel, ...] = Field((), description="Models that are kept resident, most important first.")
    defaults: Defaults = Field(default_factory=Defaults)
    rewrite: Rewrite = Field(default_factory=Rewrite)
    residency: ResidencySettings = Field(default_factory=ResidencySettings)
    relay: RelaySettings = Field(default_factory=RelaySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    edge: EdgeSettings = Field(default_factory=EdgeSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    _ollama_num_parallel: int = PrivateAttr(default=1)

    @property
    def ollama_num_parallel(self) -> int:
        """Slots that Ollama has for each model, where ``OLLAMA_NUM_PARALLEL`` told us; else its default of 1."""
        return self._ollama_num_parallel

    def with_num_parallel(self, slots: int) -> Settings:
        """The same settings, beside an Ollama that has so many slots for each model."""
        told = self.model_copy()
        told._ollama_num_parallel = slots
        return told

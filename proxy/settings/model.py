"""The settings: one frozen model, built once at start and handed down by constructors.

Here is what each setting is called, its default, its bounds and what it means. Where values come from is ``sources``;
which of them do not go together is ``rules``. The settings page and the example files are written from this model. A
name that is not here is refused, so a setting of a part that does not exist can never be believed to work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from proxy.settings.values import (
    INT32_MAX,
    Count,
    KeepAlive,
    ListenAddress,
    Seconds,
    Size,
    check_base_url,
    check_expires,
    check_host,
    check_keep_alive,
    check_key_hash,
    check_key_name,
    check_model_name,
    check_network,
    check_origin,
    check_pattern,
    check_scopes,
    check_url,
    check_variable,
    moment,
)


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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)


class Upstream(Part):
    """Where Ollama is."""

    url: Annotated[str, AfterValidator(check_url)] = Field(
        "http://127.0.0.1:11434",
        description="Where Ollama listens. `OLLAMA_HOST` is not read: clients set it to the proxy.",
    )
    connect_timeout_s: Seconds = Field(2, gt=0, le=60, description="Longest wait for a connection to Ollama.")
    max_idle: Count = Field(100, ge=1, le=10_000, description="Idle connections to Ollama that are kept.")


class WarmEntry(Part):
    """A prompt that is read into the prompt cache before anyone asks."""

    system: str = Field("", description="The system prompt.")
    tools: list[dict[str, Any]] | None = Field(
        None, description="Tools that the clients send beside it, as `/api/chat` takes them."
    )


class KeptModel(Part):
    """A model that is kept resident."""

    name: Annotated[str, AfterValidator(check_model_name)] = Field(description="The model's name as Ollama knows it.")
    keep_alive: Annotated[KeepAlive, BeforeValidator(check_keep_alive)] = Field(
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

    keep_alive: Annotated[KeepAlive | None, BeforeValidator(check_keep_alive)] = Field(
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


class SchedulerSettings(Part):
    """Which request goes to Ollama next."""

    parallel: Count = Field(
        1,
        ge=1,
        le=1024,
        description="Requests for one model that run at the same time. Not set: `OLLAMA_NUM_PARALLEL` where that is.",
    )
    max_loaded_models: Count = Field(
        0,
        ge=0,
        le=1024,
        description="Models that run at the same time. Not set: `OLLAMA_MAX_LOADED_MODELS` where that is. 0: not "
        "known; models count as fitting together until one is seen to push another out.",
    )
    max_queue: Count = Field(512, ge=0, le=1_000_000, description="Requests that may wait; one more gets 503.")
    max_wait_s: Seconds = Field(
        600, ge=0, le=86_400, description="Longest wait for a place, after which it is 503; 0: no limit."
    )
    ageing_s: Seconds = Field(
        30,
        gt=0,
        le=86_400,
        description="A wait of this length lifts a request by one class, and ends the precedence of a loaded model.",
    )


class RateLimitSettings(Part):
    """How many requests a client may send."""

    rate_per_s: Seconds = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Calls to models per second from one address; 0: no limit; `preset`: the preset's.",
    )
    burst: Count = Field(
        0, ge=0, le=1_000_000, description="So many may come at once; 0: as many as two seconds' worth, at least 1."
    )


class CacheSettings(Part):
    """Whole answers that are given again."""

    mode: Literal["off", "deterministic", "all"] = Field(
        "off",
        description="`deterministic`: answers to requests with temperature 0 or a seed. `all`: others too, so that the "
        "same question gets the same answer until it is `ttl_s` old.",
    )
    max_entries: Count = Field(200, ge=1, le=1_000_000, description="Answers that are kept.")
    max_bytes: Size = Field(64 * 2**20, ge=2**16, description="Memory for answers.")
    ttl_s: Seconds = Field(600, gt=0, le=30 * 86_400, description="How long an answer is kept.")


class FallbackUpstream(Part):
    """A second Ollama, or a provider with OpenAI's API."""

    url: Annotated[str, AfterValidator(check_base_url)] = Field(
        description="Where it listens. Of a provider the base of its API, as OpenAI's clients take it "
        "(`https://api.openai.com/v1`); `/v1` where there is no path."
    )
    kind: Literal["ollama", "openai"] = Field(
        "ollama", description="Which API it has. To an `openai` calls are translated, and answers back."
    )
    key_env: Annotated[str, AfterValidator(check_variable)] = Field(
        "",
        description="Name of the environment variable that holds the key which is shown there, as "
        "`Authorization: Bearer`; empty: none.",
    )
    models: dict[str, str] = Field(
        default_factory=dict,
        description="What a model is called there, by its name here. Another `ollama` is asked for all others by the "
        "same name, an `openai` for no others.",
    )
    client_credentials: bool = Field(
        False,
        description="Send the client's own `Authorization`, `X-API-Key` and `Cookie` there too; for an `ollama` behind "
        "the same gateway.",
    )

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def base_path(self) -> str:
        """Where its API starts; "" for the root."""
        path = urlsplit(self.url).path
        return path or ("/v1" if self.kind == "openai" else "")


class EmbedBatch(Part):
    """How single texts to embed are gathered."""

    max: Count = Field(10, ge=2, le=4096, description="Texts in one call.")
    wait_s: Seconds = Field(
        0, ge=0, le=60, description="Longest wait for company while another call runs, beyond that call's end."
    )


class ApiKey(Part):
    """A key that callers show; only its hash is known here."""

    name: Annotated[str, AfterValidator(check_key_name)] = Field(
        description="What it is called, for example in the log."
    )
    hash: Annotated[str, AfterValidator(check_key_hash)] = Field(
        repr=False, description="`sha256:` and the SHA-256 of the key in hexadecimal; `pilotlight key new` prints it."
    )
    class_: Literal["interactive", "normal", "batch"] = Field(
        "interactive",
        alias="class",
        description="The most urgent class that its requests can have; one that asks for more gets this.",
    )
    scopes: Annotated[tuple[Literal["infer", "read", "manage"], ...], AfterValidator(check_scopes)] = Field(
        ("infer", "read"),
        description="What it is for: `infer` calls models, `read` sees which there are, `manage` changes them.",
    )
    models: tuple[Annotated[str, AfterValidator(check_pattern)], ...] = Field(
        ("*",),
        description="Models that it may use: names, or patterns with `*`, `?` and `[...]`, which are compared with the "
        "full name (`llama3.2:latest`).",
    )
    rate_per_s: Seconds | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Calls to models per second with it; 0: no limit; empty: `rate_limit.rate_per_s`.",
    )
    burst: Count | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="So many may come at once; 0, and empty beside a rate of its own: as many as two seconds' worth, "
        "at least 1.",
    )
    expires: Annotated[str, AfterValidator(check_expires)] | None = Field(
        None,
        description="From then on it is unknown: a date (its first moment) or a date and time, UTC where no offset is "
        "given.",
    )

    @property
    def expires_unix(self) -> float | None:
        """Seconds since 1970; ``None`` for never."""
        return None if self.expires is None else moment(self.expires).timestamp()


class EdgeSettings(Part):
    """What is let in."""

    hosts: tuple[Annotated[str, AfterValidator(check_host)], ...] = Field(
        (),
        description="Names under which clients may reach the proxy, beside `localhost`, this machine's own and its "
        "addresses; `*.example.org` for all below a name, `*` for any.",
    )
    origins: tuple[Annotated[str, AfterValidator(check_origin)], ...] = Field(
        (),
        description="Web pages that may call, beside those that Ollama allows: `https://app.example`, or with one `*` "
        "for any text; `*` alone for all, which needs keys.",
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(check_network)], ...] = Field(
        (), description="Networks of reverse proxies whose `X-Forwarded-For` is believed."
    )
    manage_from: tuple[Annotated[str, AfterValidator(check_network)], ...] = Field(
        ("127.0.0.0/8", "::1/128"),
        description="Networks from which models may be managed without a key, where no forwarding header is there.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve callers without a key, from other machines too. Needed to listen on more than loopback "
        "without `keys`.",
    )
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

    preset: Literal["", "small", "balanced", "large"] = Field(
        "",
        description="Sizes that go together, for what is not set here: see below. It switches nothing on.",
    )
    listen: ListenAddress = Field(
        "127.0.0.1:11435", description="Address of the proxy. All of its paths belong to Ollama's API."
    )
    admin: ListenAddress = Field("127.0.0.1:11436", description="Address of health, metrics and recent requests.")
    upstream: Upstream = Field(default_factory=Upstream)
    models: tuple[KeptModel, ...] = Field((), description="Models that are kept resident, most important first.")
    defaults: Defaults = Field(default_factory=Defaults)
    rewrite: Rewrite = Field(default_factory=Rewrite)
    residency: ResidencySettings = Field(default_factory=ResidencySettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    rate_limit: RateLimitSettings = Field(default_factory=RateLimitSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    share_identical: bool = Field(
        False, description="Requests that are the same and deterministic, under way at once, share one run."
    )
    embed_batch: dict[str, EmbedBatch] = Field(
        default_factory=dict,
        description='Models whose single texts to embed are gathered, by name: `{"nomic-embed-text": {"max": 10}}`.',
    )
    fallback: tuple[FallbackUpstream, ...] = Field(
        (),
        description="Asked in order, before the first byte, where Ollama cannot be reached or cannot load the model.",
    )
    relay: RelaySettings = Field(default_factory=RelaySettings)
    v1: Literal["auto", "translate", "passthrough"] = Field(
        "auto",
        description="`/v1/chat/completions` and `/v1/completions` as `/api/chat` and `/api/generate`, and the replies "
        "back: for models with runner options or `long_prompts` (`auto`), for all (`translate`), or never "
        "(`passthrough`).",
    )
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    keys: tuple[ApiKey, ...] = Field((), description="Keys that callers show; `pilotlight key new NAME` makes one.")
    edge: EdgeSettings = Field(default_factory=EdgeSettings)
    log: LogSettings = Field(default_factory=LogSettings)

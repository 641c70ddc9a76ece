"""Every error of the proxy's own, in one tree. Imports nothing, so that every layer may raise them.

    PilotlightError
    ├── BadRequest            400  bad_request          we cannot read it, or it would harm the server
    ├── Unauthorized          401  unauthorized         no key, or one that is unknown, expired or revoked
    ├── Forbidden             403  forbidden            this caller may not do this
    ├── OriginRefused         403  origin_refused       a web page that may not call here
    ├── MethodNotAllowed      405  method_not_allowed   CONNECT
    ├── RequestTimeout        408  request_timeout      the client is too slow with its body
    ├── BodyTooLarge          413  body_too_large       more than edge.max_body
    ├── MisdirectedHost       421  misdirected_host     a host name that this proxy does not have
    ├── RateLimited           429  rate_limited         more requests than this client's rate allows
    ├── LoadFailed            500  load_failed          Ollama could not load the model; its own text
    ├── NotImplementedHere    501  not_implemented      a transfer coding beside chunked
    ├── UpstreamUnreachable   502  upstream_unreachable nothing was sent; the only one that may be retried
    ├── UpstreamBroken        502  upstream_broken      malformed or cut-off reply
    ├── Overloaded            503  overloaded           the queue is full, or the wait was too long
    ├── ShuttingDown          503  shutting_down
    ├── UpstreamTimeout       504  upstream_timeout     a limit of ours passed
    ├── VersionNotSupported   505  version_not_supported
    └── MisdirectedLoop       508  loop                 the request has been through this proxy already
    ConfigError                                         at start only: exit code 2, never an answer

The class decides status and code, once. How an error is rendered depends on the API that was called and is not decided
here. An HTTP error *from Ollama* is not an exception, and neither is a client that left.
"""

from __future__ import annotations

from typing import ClassVar


class PilotlightError(Exception):
    """An error that is answered to the client.

    Args:
        message: One sentence for the client; never a path, a key or a traceback.
        retry_after_s: Seconds after which trying again may help; ``None`` where it does not.
    """

    status: int = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class BadRequest(PilotlightError):
    status = 400
    code = "bad_request"


class Unauthorized(PilotlightError):
    """No key that counts. Missing, unknown, expired and revoked have one text, so that keys cannot be told apart."""

    status = 401
    code = "unauthorized"

    def __init__(self, message: str = "a valid API key is needed", *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class Forbidden(PilotlightError):
    """The caller is known, or needs not be, and may not do this."""

    status = 403
    code = "forbidden"


class OriginRefused(PilotlightError):
    status = 403
    code = "origin_refused"


class MethodNotAllowed(PilotlightError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(PilotlightError):
    status = 408
    code = "request_timeout"


class BodyTooLarge(PilotlightError):
    status = 413
    code = "body_too_large"


class MisdirectedHost(PilotlightError):
    status = 421
    code = "misdirected_host"


class RateLimited(PilotlightError):
    status = 429
    code = "rate_limited"


class LoadFailed(PilotlightError):
    """A shared load failed; every request that waited for it gets Ollama's own status and text."""

    code = "load_failed"

    def __init__(self, message: str, *, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class NotImplementedHere(PilotlightError):
    status = 501
    code = "not_implemented"


class UpstreamUnreachable(PilotlightError):
    """Not one byte reached Ollama, so the request may be sent again."""

    status = 502
    code = "upstream_unreachable"


class UpstreamBroken(PilotlightError):
    status = 502
    code = "upstream_broken"


class Overloaded(PilotlightError):
    """No slot came free in time, or too many wait for one."""

    status = 503
    code = "overloaded"


class ShuttingDown(PilotlightError):
    status = 503
    code = "shutting_down"


class UpstreamTimeout(PilotlightError):
    status = 504
    code = "upstream_timeout"


class VersionNotSupported(PilotlightError):
    status = 505
    code = "version_not_supported"


class MisdirectedLoop(PilotlightError):
    status = 508
    code = "loop"


class ConfigError(Exception):
    """A setting that cannot be used.

    Args:
        field: The setting's dotted name as the YAML file spells it, for instance ``models.0.keep_alive``.
        message: What is wrong with it, in one line.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def all_codes() -> dict[str, type[PilotlightError]]:
    """Each code that ``X-Pilotlight-Error`` can carry, with the class that gives it its meaning."""
    found: dict[str, type[PilotlightError]] = {}
    kinds: list[type[PilotlightError]] = [PilotlightError]
    for kind in kinds:
        # A finer class of another module shares the code of the one that it refines.
        found.setdefault(kind.code, kind)
        kinds.extend(kind.__subclasses__())
    return found

"""Every error of the proxy's own, in one tree. Imports nothing, so that every layer may raise them.

    PilotlightError
    ├── BadRequest            400  bad_request          we cannot read it, or it would harm the server
    ├── MethodNotAllowed      405  method_not_allowed   CONNECT
    ├── BodyTooLarge          413  body_too_large       more than edge.max_body
    ├── LoadFailed            500  load_failed          Ollama could not load the model; its own text
    ├── NotImplementedHere    501  not_implemented      a transfer coding beside chunked
    ├── UpstreamUnreachable   502  upstream_unreachable nothing was sent; the only one that may be retried
    ├── UpstreamBroken        502  upstream_broken      malformed or cut-off reply
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


class MethodNotAllowed(PilotlightError):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(PilotlightError):
    status = 413
    code = "body_too_large"


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

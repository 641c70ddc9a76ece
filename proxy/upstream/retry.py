"""What may be sent a second time, and when: a table.

What must live here: which requests change nothing, and what each situation allows them. What it must not know: sockets,
sessions, how long anything takes.

RFC 9110 section 9.2.2 allows a repetition of what is known to be safe, and a call to a model is: it changes nothing but
the prompt cache. What changes which models exist runs once, ``pull`` among it. A repetition that a budget or a breaker
refuses is not made either (``budget``, ``breaker``).
"""

from __future__ import annotations

import enum
from typing import Final

from proxy.wire.routes import classify

# v0.24.0, server/sched.go, ``ErrMaxQueue``; recorded, with its two spaces.
_QUEUE_FULL: Final = b"server busy, please try again.  maximum pending requests exceeded"
_QUEUE_FULL_FIRST_S: Final = 0.1
_QUEUE_FULL_MOST_S: Final = 2.0

# RFC 9110 section 9.2.1.
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
# Reads, though it is a POST: what is asked for stands in the body.
_READING: Final = frozenset((("POST", "/api/show"),))


class Situation(enum.Enum):
    """Where a request stands when it went wrong.

    Attributes:
        CONNECT_FAILED: No connection; not one byte was sent.
        REUSED_NO_REPLY: A connection that had carried others ended without one byte of a reply. Most likely it was
            closed while the request was on its way (RFC 9112 section 9.3.1).
        FRESH_NO_REPLY: So did a new one: the request itself may be what ends the server.
        QUEUE_FULL: Ollama said that its queue is full (:func:`is_queue_full`).
        BYTES_SENT: The client has a part of the answer.
    """

    CONNECT_FAILED = "connect_failed"
    REUSED_NO_REPLY = "reused_no_reply"
    FRESH_NO_REPLY = "fresh_no_reply"
    QUEUE_FULL = "queue_full"
    BYTES_SENT = "bytes_sent"


# For what changes nothing, and for everything else.
_MATRIX: Final = {
    Situation.CONNECT_FAILED: (True, True),
    Situation.REUSED_NO_REPLY: (True, False),
    Situation.FRESH_NO_REPLY: (False, False),
    Situation.QUEUE_FULL: (True, False),
    Situation.BYTES_SENT: (False, False),
}


def changes_nothing(method: str, target: str) -> bool:
    """Whether a request may run twice: calls to a model, ``show``, and methods that only read.

    Args:
        method: As sent.
        target: Path and query, as sent. A POST, PUT or DELETE that nobody here knows may change anything.
    """
    path = target.partition("?")[0]
    return method in _SAFE_METHODS or (method, path) in _READING or classify(method, path).is_inference


def may_repeat(method: str, target: str, situation: Situation) -> bool:
    """Whether the table allows a request to be sent once more.

    Args:
        method: As sent.
        target: Path and query, as sent.
        situation: What happened to it.

    Returns:
        Yes or no. How often is the caller's: after a connect that failed three attempts in all, on a connection that
        was reused one, for a full queue until the request's deadline.
    """
    safe, other = _MATRIX[situation]
    return safe if changes_nothing(method, target) else other


def is_queue_full(status: int, body: bytes) -> bool:
    """Whether Ollama said that too many requests wait in it, in whichever shape of its APIs."""
    return status == 503 and _QUEUE_FULL in body


def queue_full_delay_s(attempt: int, jitter: float) -> float:
    """Pause before a request is sent again to an Ollama whose queue was full.

    Args:
        attempt: Tries before this one that met a full queue, without the first: 0, 1, ...
        jitter: 0 to 1, drawn for this pause; full, so that those that were refused together do not come back together.

    Returns:
        Seconds, of 0.1 doubling up to 2.
    """
    return jitter * min(_QUEUE_FULL_MOST_S, _QUEUE_FULL_FIRST_S * 2.0 ** min(attempt, 10))

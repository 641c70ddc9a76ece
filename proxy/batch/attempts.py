"""What follows from an attempt without a result: again, an error in the line's place, or the end of the run. Pure.

What must live here: which is which, and how long the pauses are. What it must not know: sockets, files, the time.

A call to a model changes nothing but the prompt cache, and a line's result is written once and whole. So a line may be
sent again even where a part of its answer had come (1). What is wrong with the line itself is not repeated (2). What is
wrong with the server or with the run as a whole is no line's error: nothing is written, and the run ends (3), because
ten thousand equal errors help nobody.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class Kind(enum.Enum):
    """What an attempt came to.

    Attributes:
        AWAY: No connection to the server, or to the Ollama behind it; nothing was sent.
        BUSY: 429 or 503: the server takes no more just now.
        CUT: The connection ended before the answer did.
        FAILED: Another status from 500 on, or 408.
        STRANGE: An answer that is not Ollama's.
        DENIED: The server does not take this caller.
        FORBIDDEN: It does not take this caller with this model.
        NO_MODEL: It has no such model.
        REFUSED: Another status from 400 on: the line's own fault.
        LATE: The line's time is over.
    """

    AWAY = "away"
    BUSY = "busy"
    CUT = "cut"
    FAILED = "failed"
    STRANGE = "strange"
    DENIED = "denied"
    FORBIDDEN = "forbidden"
    NO_MODEL = "no_model"
    REFUSED = "refused"
    LATE = "late"


class Failure(NamedTuple):
    """One attempt without a result.

    Attributes:
        message: For people.
        status: As answered; ``None`` where nothing was.
        retry_after_s: As the server asked for; 0 where it did not.
    """

    kind: Kind
    message: str
    status: int | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is tried.

    Attributes:
        retries: Repetitions of a line after a cut connection, a server's error or a strange answer.
        timeout_s: For one line, all its attempts and pauses together; 0 for no limit.
        away_s: How long a server that has answered in this run may be unreachable.
    """

    retries: int = 3
    timeout_s: float = 3600.0
    away_s: float = 120.0


class Again(NamedTuple):
    """The line is sent once more after a pause."""

    pause_s: float


class Fail(NamedTuple):
    """The line has an error."""


class Stop(NamedTuple):
    """The run ends, and the line is as if it had never been sent."""

    message: str


class Tries:
    """What has been tried for one line.

    Args:
        patience: How much is.
        began: When the line was taken, in monotonic seconds.
        names_model: The line says which model, so that a wrong one is its own fault.

    Attributes:
        count: Attempts up to now, the one that is under way included.
    """

    __slots__ = ("_away_since", "_began", "_counted", "_names_model", "_patience", "_pauses", "count")

    def __init__(self, patience: Patience, began: float, *, names_model: bool) -> None:
        self._patience = patience
        self._began = began
        self._names_model = names_model
        self._away_since: float | None = None
        self._counted = 0
        self._pauses = 0
        self.count = 1

    def left_s(self, now: float) -> float | None:
        """What is left of the line's time; ``None`` for no limit."""
        limit_s = self._patience.timeout_s
        return max(0.0, self._began + limit_s - now) if limit_s else None

    def after(self, failure: Failure, now: float, jitter: float, *, has_answered: bool) -> Again | Fail | Stop:
        """What to do now.

        Args:
            failure: Of the attempt that just ended.
            now: Monotonic seconds.
            jitter: 0 to 1, drawn for this pause, so that lines that failed together do not come back together.
            has_answered: The server has answered some line of this run.
        """
        kind = failure.kind
        if kind is Kind.DENIED or (kind in (Kind.FORBIDDEN, Kind.NO_MODEL) and not self._names_model):
            return Stop(failure.message)  # 3
        if kind in (Kind.FORBIDDEN, Kind.NO_MODEL, Kind.REFUSED, Kind.LATE):
            return Fail()  # 2
        if kind is Kind.AWAY:
            if self._away_since is None:
                self._away_since = now
            if not has_answered or now - self._away_since >= self._patience.away_s:
                return Stop(failure.message)  # 3
        else:
            self._away_since = None
            if kind is Kind.STRANGE and not has_answered:
                # Nothing of Ollama's has been seen at this address.
                return Stop(failure.message)  # 3
            if kind is not Kind.BUSY:
                self._counted += 1
                if self._counted > self._patience.retries:
                    return Fail()  # 2
        return self._again(failure, now, jitter)  # 1

    def _again(self, failure: Failure, now: float, jitter: float) -> Again | Fail | Stop:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._pauses, 10)) * (0.5 + jitter / 2)
        pause_s = max(pause_s, failure.retry_after_s)
        left_s = self.left_s(now)
        if left_s is not None and pause_s >= left_s:
            return Stop(failure.message) if failure.kind is Kind.AWAY else Fail()
        self._pauses += 1
        self.count += 1
        return Again(pause_s)

"""Times as Go writes them, which Ollama's answers have."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_time(value: object) -> float | None:
    """Seconds since 1970 of a time as Go writes it (RFC 3339, up to nine decimals, any year up to 9999).

    Returns:
        ``None`` for what is no such time; where there is no offset, it is taken for UTC.
    """
    if not isinstance(value, str):
        return None
    try:
        # Python 3.11 takes "Z" and cuts decimals after the sixth.
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # A difference, because timestamp() fails on some platforms for years past 2038.
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()

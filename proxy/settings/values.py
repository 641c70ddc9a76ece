"""What a value of a setting may be, and how it is read: types with their checks, for the model.

Each check gives the value back, perhaps tidied, or raises a ``ValueError`` whose message goes on after the value, in a
user's words: "... must be a URL without spaces".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer

from proxy.settings.address import parse_address
from proxy.settings.sizes import format_size, parse_size
from proxy.wire.durations import parse_keep_alive

# Ollama reads whole numbers into Go's int, but a runner holds them in 32 bits.
INT32_MAX = 2**31 - 1

# Goes into logs, labels and headers, so it is plain.
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}", re.ASCII)
_KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# As ``edge.hosts`` and ``edge.origins`` of the proxy read them: DNS labels, and underscores as container networks have.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:\*\.)?({_LABEL}(?:\.{_LABEL})*)", re.ASCII)
_WEB_ORIGIN = re.compile(rf"https?://(\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?", re.ASCII)
_OTHER_ORIGIN = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://[a-z0-9._~%:\[\]-]*", re.ASCII)
_ORIGIN_PATTERN = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?[a-z0-9._~%:\[\]-]*\*[a-z0-9._~%:\[\]-]*", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def burst_of(rate_per_s: float, burst: int) -> int:
    """How many requests may come at once: the number that is set; where that is 0, two seconds' worth, at least 1."""
    return burst or max(1, round(2 * rate_per_s))


def _refuse_bool(value: object) -> object:
    """YAML's ``yes`` is a mistake where a number belongs, though Python would take it for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _whole_where_whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _check_address(value: object) -> str:
    # A number is a port by itself, in YAML; what it lacks is told in the same words.
    text = value if isinstance(value, str) else ""
    parse_address(text)
    return text


def check_model_name(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("must be the name of a model, without spaces")
    return text


def check_url(text: str) -> str:
    parts = _url(text)
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must have no user, path or query: Ollama's API starts at the root")
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}"


def check_base_url(text: str) -> str:
    """Like :func:`check_url`, with the path below which an API starts."""
    parts = _url(text)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no user or query")
    if not text.isascii() or "//" in parts.path:
        raise ValueError("has a path that cannot be sent as it is")
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}{parts.path.rstrip('/')}"


def _url(text: str) -> SplitResult:
    if not text.isprintable() or " " in text:
        raise ValueError("must be a URL without spaces")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("has a port that is not a number from 0 to 65535") from None
    return parts


def check_variable(text: str) -> str:
    """The name of a variable, never what is in it: a key has small letters, so that it is not taken for a name."""
    if text and not _VARIABLE.fullmatch(text):
        raise ValueError("must be the name of an environment variable, in capitals, and never the key itself")
    if text.startswith("PILOTLIGHT_"):
        raise ValueError("must not begin with PILOTLIGHT_, which is for settings")
    return text


def check_keep_alive(value: object) -> object:
    if value is not None:
        parse_keep_alive(value)
    return value


def check_key_name(text: str) -> str:
    """A key's name, as it is.

    Raises:
        ValueError: It is none; the message is fit for a user.
    """
    if not _KEY_NAME.fullmatch(text):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first")
    return text


def check_key_hash(text: str) -> str:
    if not _KEY_HASH.fullmatch(text.lower()):
        raise ValueError("must be sha256: and 64 hexadecimal digits, as `pilotlight key new` prints it; never the key")
    return text.lower()


def check_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if not scopes:
        raise ValueError("must name at least one scope; a key that may do nothing is taken out of the list")
    return scopes


def check_pattern(text: str) -> str:
    """A pattern for model names, as it is.

    Raises:
        ValueError: It is none; the message is fit for a user.
    """
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be the name of a model, or a pattern such as llama3.2:* or *")
    return text


def moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def check_expires(text: str) -> str:
    try:
        moment(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("must be a date or a time (UTC), such as 2027-01-31 or 2027-01-31T18:00:00Z") from None
    return text


def _is_host(name: str) -> bool:
    """A name whose last label is a number is an address to a browser, or an error."""
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return not name.startswith("[") and len(name) <= 253 and not _NUMBER.fullmatch(name.rpartition(".")[2])
    return name.startswith("[") == (":" in name)


def check_host(text: str) -> str:
    name = text.strip().lower().removesuffix(".")
    if name == "*":
        return name
    try:
        return str(ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        found = _HOST_NAME.fullmatch(name)
        if found is None or not _is_host(found[1]):
            raise ValueError("must be a host name, *.NAME, * or an address, without a port") from None
        return name


def check_origin(text: str) -> str:
    origin = text.strip().lower()
    web = _WEB_ORIGIN.fullmatch(origin)
    if web is not None:
        is_one = _is_host(web[1]) and 0 < int(web[2] or 80) <= 65535
    else:
        is_one = origin == "null" or any(form.fullmatch(origin) for form in (_OTHER_ORIGIN, _ORIGIN_PATTERN))
    if not is_one:
        raise ValueError("must be SCHEME://HOST[:PORT] without a path, in which one * stands for any text; or *")
    return origin


def check_network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        what = "has bits set beyond its length" if "host bits" in str(error) else "must be an address or a network"
        raise ValueError(f"{what}, such as 10.0.0.0/8") from None


Seconds = Annotated[float, BeforeValidator(_refuse_bool), PlainSerializer(_whole_where_whole)]
Count = Annotated[int, BeforeValidator(_refuse_bool)]
ListenAddress = Annotated[str, BeforeValidator(_check_address)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
KeepAlive = int | float | str
"""The JSON value that is sent to Ollama: seconds, or a Go duration such as ``"10m"``; negative means for ever."""

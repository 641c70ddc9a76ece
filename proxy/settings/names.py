"""The names of all settings, read off the model: which are known, what they hold, and which one was meant."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from proxy.settings.model import Part, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """One setting or group of settings.

    Attributes:
        path: Names from the top; ``*`` stands for the place in a list, or for a model's name.
        annotation: Its type, without bounds.
        field: Default, bounds and description; ``None`` for a runner option.
    """

    path: Path
    annotation: Any
    field: FieldInfo | None


def walk(group: type[Part] = Settings, path: Path = ()) -> Iterator[Name]:
    """Every name, each group before its members, in the order of the model."""
    for name, field in group.model_fields.items():
        here = (*path, field.alias or name)
        yield Name(here, field.annotation, field)
        inner, below = field.annotation, here
        if get_origin(inner) in (tuple, dict):
            inner, below = get_args(inner)[-1 if get_origin(inner) is dict else 0], (*here, "*")
        if isinstance(inner, type) and issubclass(inner, Part):
            yield from walk(inner, below)
        elif is_typeddict(inner):
            for option, annotation in get_type_hints(inner).items():
                yield Name((*below, option), annotation, None)


def is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def find(path: Sequence[str]) -> Name | None:
    wanted = tuple("*" if part.isdigit() else part for part in path)
    return next((name for name in walk() if name.path == wanted), None)


def is_known(path: Sequence[str]) -> bool:
    """True for a name that can be given alone, which a member of a list cannot."""
    return "*" not in path and not any(part.isdigit() for part in path) and find(path) is not None


def is_group(path: Sequence[str]) -> bool:
    """True where names stand below this one and the group is not in a list."""
    name = find(path)
    return is_known(path) and name is not None and (is_part(name.annotation) or is_typeddict(name.annotation))


def is_text(path: Sequence[str]) -> bool:
    """True where the value is text whatever it looks like, so that ``"1"`` stays text."""
    name = find(path)
    return name is not None and (name.annotation is str or get_origin(name.annotation) is Literal)


def is_scalar(path: Sequence[str]) -> bool:
    """True where the value is one number, switch or word."""
    name = find(path)
    if name is None:
        return False
    kinds = get_args(name.annotation) or (name.annotation,)
    return all(kind in {int, float, bool, str, type(None)} for kind in kinds)


def nearest(path: Sequence[str]) -> Path | None:
    """The setting that a misspelt name was probably meant to be: among its siblings, else anywhere."""
    every = [name.path for name in walk()]
    wanted = tuple("*" if part.isdigit() else part for part in path)
    siblings = {known[-1]: known for known in every if known[:-1] == wanted[:-1]}
    if close := difflib.get_close_matches(wanted[-1], siblings, n=1, cutoff=0.75):
        return _with_places(siblings[close[0]], path)
    elsewhere = {known[-1]: known for known in reversed(every) if "*" not in known}
    if close := difflib.get_close_matches(wanted[-1], elsewhere, n=1, cutoff=0.85):
        return elsewhere[close[0]]
    whole = {".".join(known): known for known in every if "*" not in known}
    close = difflib.get_close_matches(".".join(wanted), whole, n=1, cutoff=0.85)
    return whole[close[0]] if close else None


def _with_places(known: Path, path: Sequence[str]) -> Path:
    return tuple(given if name == "*" else name for name, given in zip(known, path, strict=True))

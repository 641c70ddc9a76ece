"""Which JSON schemas the runner can turn into a grammar (llama.cpp ``json-schema-to-grammar.cpp``, ``visit``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

_PRIMITIVES: Final = ("boolean", "number", "integer", "string", "null")
_FORMATS: Final = ("uuid", "date", "time", "date-time")


def is_known_schema(text: str) -> bool:
    """Whether a schema is understood, parts included."""
    try:
        schema = json.loads(text)
    except ValueError:
        return False
    return isinstance(schema, Mapping) and _visit(schema, schema)


def _visit(schema: object, root: Mapping[str, object]) -> bool:
    if not isinstance(schema, Mapping):
        return schema is True
    if "$ref" in schema:
        return _resolves(schema["$ref"], root)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return _all(schema[key], root)
    kind = schema.get("type")
    if isinstance(kind, list):
        return all(_visit({**schema, "type": item}, root) for item in kind)
    if "const" in schema or "enum" in schema or not schema:
        return True
    if kind in (None, "object") and ({"properties", "additionalProperties"} & set(schema)):
        properties = schema.get("properties")
        return not isinstance(properties, Mapping) or all(_visit(item, root) for item in properties.values())
    if kind in (None, "object") and "allOf" in schema:
        return _all(schema["allOf"], root)
    if kind in (None, "array") and ({"items", "prefixItems"} & set(schema)):
        items = schema.get("items", schema.get("prefixItems"))
        return _all(items, root) if isinstance(items, list) else _visit(items, root)
    if kind in (None, "string") and ("pattern" in schema or schema.get("format") in _FORMATS):
        return True
    return kind in ("object", "array", *_PRIMITIVES)


def _all(schemas: object, root: Mapping[str, object]) -> bool:
    return isinstance(schemas, list) and all(_visit(item, root) for item in schemas)


def _resolves(reference: object, root: Mapping[str, object]) -> bool:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return False
    place: object = root
    for part in reference[2:].split("/"):
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True

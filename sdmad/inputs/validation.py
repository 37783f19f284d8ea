"""Validation errors of pydantic as one sentence."""

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sdmad.words import meant

# What pydantic adds to the keys of a value that may be of several types: the one it tried.
_TRIED = re.compile(r"constrained-\w+|(dict|list)\[.*\]")


def explain(error: ValueError, kind: type[BaseModel] | None = None) -> str:
    """The first error, with its key, and the number of further errors.

    With the model that was validated, `kind`, a key that is nearly a known one is named.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    findings = _of_types_meant(error.errors())
    first = findings[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"unknown key {where!r}{_near(kind, first['loc'])}"
    elif first["type"] == "missing":
        text = f"the key {where!r} is missing"
    elif first["type"] == "model_type":
        inner = _model_at(kind, first["loc"])
        example = next(iter(inner.model_fields)) if inner else "key"
        text = f"{where} must have keys, as in {where}: {{{example}: ...}}, not {first['input']!r}"
    elif first["type"].startswith("bool_"):
        text = f"{where}: give true or false, not {first['input']!r}"
    else:
        text = first["msg"].removeprefix("Value error, ")
        text = f"{where}: {text}" if where else text
    more = len(findings) - 1
    return text + (f" (and {more} more)" if more else "")


def _of_types_meant(findings: Sequence[Any]) -> list[dict[str, Any]]:
    """Findings with their keys alone; of a value that may be of several types, the finding of the
    type that it is, or the first one."""
    found: list[dict[str, Any]] = []
    for finding in findings:
        keys = tuple(key for key in finding["loc"] if not _TRIED.fullmatch(str(key)))
        before: dict[str, Any] = found[-1] if found else {"loc": (), "tried": False}
        tried = len(keys) < len(finding["loc"])
        if tried and before["tried"] and keys[: len(before["loc"])] == before["loc"]:
            if finding["type"].endswith("_type"):
                continue
            if before["type"].endswith("_type"):
                found.pop()
        found.append({**finding, "loc": keys, "tried": tried})
    return found


def _near(kind: type[BaseModel] | None, keys: Sequence[int | str]) -> str:
    """A hint at the known key that the last of nested `keys` is nearly; empty if there is none."""
    *outer, last = keys
    kind = _model_at(kind, outer)
    near = meant(str(last), kind.model_fields) if kind else ""
    return f"; {near}" if near else ""


def _model_at(kind: type[BaseModel] | None, keys: Sequence[int | str]) -> type[BaseModel] | None:
    """The model of the value at nested `keys`; None if it is none."""
    for key in keys:
        field = kind.model_fields.get(str(key)) if kind else None
        types = [field.annotation, *get_args(field.annotation)] if field else []
        models = (t for t in types if isinstance(t, type) and issubclass(t, BaseModel))
        kind = next(models, None)
    return kind

"""Validation errors of pydantic as one sentence."""

from pydantic import ValidationError


def explain(error: ValueError) -> str:
    """The first error, with its key, and the number of further errors."""
    if not isinstance(error, ValidationError):
        return str(error)
    findings = error.errors()
    first = findings[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"unknown key {where!r}"
    elif first["type"] == "missing":
        text = f"the key {where!r} is missing"
    else:
        text = first["msg"].removeprefix("Value error, ")
        text = f"{where}: {text}" if where else text
    more = len(findings) - 1
    return text + (f" (and {more} more)" if more else "")

"""Kinds of processes in a scoring run, by their command lines."""

MARKS = {"score_archive.py": "driver", "DetectorActor": "detector", "read_and_decode": "reader"}
KINDS = tuple(MARKS.values())


def kind_of(command: str) -> str | None:
    """One of `KINDS`; None for Ray's own processes."""
    return next((kind for mark, kind in MARKS.items() if mark in command), None)

"""Test images without a score: which, why, and whether the metrics still mean something."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np

from sdmad import storage
from sdmad.errors import UserError
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.matching import NEAR_AMONG, SHOWN, FailureIndex, Name, near_miss, some
from sdmad.logs import Notice
from sdmad.scoring import tables
from sdmad.storage import run_record

READERS = 16


def check_scored(
    run: str,
    labels_uri: str,
    test: LabelTable,
    scored: np.ndarray,
    units: list[str],
    split: str = "test",
) -> list[Notice]:
    """Notices about the images of a split without a score.

    `scored` is a mask of the rows of `test`; `units` are the finished units that may hold them.
    Raises `UserError` if a category, or normal, has no scored image left, or if more than half of
    the images are unknown to a finished run.
    """
    if scored.all():
        return []
    names = _names(test, ~scored)
    failed = _failed(run, names, units)
    unknown = [name for name in names if name not in failed]
    finished = _finished(run)
    there = _some_scored(run, units or sorted(tables.done_units(run))) if unknown else []
    about = _about(run, len(failed), unknown, finished, there)
    if finished and len(unknown) > len(test) / 2:
        raise UserError(
            f"{len(unknown):,} of the {len(test):,} {split} images of {labels_uri} match no image "
            f"of {about}; the columns archive and member must match those of the score tables"
        )
    normal = ~test.labels.any(axis=1)
    groups = {"normal": normal} | dict(zip(test.categories, test.labels.T, strict=True))
    losses = []
    for name, mask in groups.items():
        lost = mask & ~scored
        if lost.any() and not (mask & scored).any():
            raise UserError(
                f"none of the {mask.sum():,} {split} images of {name} has a score: "
                f"{some(_names(test, lost))}; {len(names):,} of all {len(test):,} {split} images "
                f"have none in {about}; correct the label table, or score these images"
            )
        if lost.any():
            losses.append(f"{name} {lost.sum():,} of {mask.sum():,}")
    text = f"{len(names):,} of {len(test):,} {split} images have no score ({', '.join(losses)})"
    plain = _about(run, len(failed), unknown, finished)
    return [Notice(f"{text}; {plain}", f"{text}: {some(names)}; {about}")]


def nothing_scored(
    run: str, labels_uri: str, test: LabelTable, units: list[str], split: str = "test"
) -> UserError:
    """The exception if no image of the split has a score."""
    names = _names(test, np.ones(len(test), bool))
    failed = len(_failed(run, names, units))
    there = _some_scored(run, units or sorted(tables.done_units(run)))
    unfinished = "" if _finished(run) else ", a run that is not finished"
    failures = f" ({failed:,} are in its failures)" if failed else ""
    return UserError(
        f"none of the {len(test):,} {split} images of {labels_uri} has a score in {run}{unfinished}"
        f"{failures}: the labels name {some(names)}{near_miss(names, there)}, and the scores "
        f"{some(there[:SHOWN]) or 'no images'}; give the labels of the archive that was scored, "
        "with the same archive and member"
    )


def _names(test: LabelTable, mask: np.ndarray) -> list[Name]:
    return list(zip(test.archive[mask].tolist(), test.member[mask].tolist(), strict=True))


def _about(
    run: str, failed: int, unknown: list[Name], finished: bool, there: list[Name] | None = None
) -> str:
    """What the run says about images without a score; `there` are names that it has, as examples
    beside those that it does not know."""
    parts = [f"the scoring run {run}"]
    if not finished:
        parts.append("which is not finished")
    if failed:
        parts.append(f"which has {failed:,} of them in failures")
    if unknown and there is None:
        parts.append(f"which does not know {len(unknown):,} of them")
    elif unknown and there is not None:
        examples = some(there[:SHOWN]) or "no images"
        parts.append(f"which does not know {some(unknown)}{near_miss(unknown, there)}")
        parts.append(f"but has {examples}")
    return ", ".join(parts)


def _failed(run: str, names: list[Name], units: list[str]) -> set[Name]:
    """Those of `names` that a failure of a run stands for."""
    index = FailureIndex(names)
    with ThreadPoolExecutor(READERS) as pool:
        stored = chain.from_iterable(pool.map(lambda unit: _stored(run, "failures", unit), units))
        return {names[row] for name in stored for row in index.find(name)}


def _some_scored(run: str, units: list[str]) -> list[Name]:
    stored = chain.from_iterable(_stored(run, "scores", unit) for unit in units)
    return list(islice(stored, NEAR_AMONG))


def _stored(run: str, kind: str, unit: str) -> list[Name]:
    part = tables.read_part(run, kind, unit, ("archive", "member"))
    return list(zip(part["archive"].to_pylist(), part["member"].to_pylist(), strict=True))


def _finished(run: str) -> bool:
    if not storage.exists(storage.join(run, "run.json")):
        return True
    return run_record.read_record(run).get("status", "finished") == "finished"

"""Training again with a changed label table: what changed, and which fits stay.

A training output keeps the names, splits and labels of each table that it was trained with, as
`labels/<digest>.parquet`; patients are not in it. A fit is up to date if the digest of its support
is that of the support drawn now. Before other fits are replaced, all fits of the finished run are
copied to `earlier/<digest of its table>/`, a training output of its own.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sdmad import logs, storage
from sdmad.errors import UserError
from sdmad.fits import read_provenance
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.matching import some
from sdmad.logs import Notice
from sdmad.storage import fit_files, parquet, run_record
from sdmad.storage.fit_files import Key
from sdmad.storage.objects import StoredObject
from sdmad.words import counted

READERS = 8
NORMAL = "normal"
Image = tuple[str, str]


@dataclass(frozen=True)
class LabelChanges:
    """How a label table differs from the one before.

    Numbers of images that are new (also by category), that have other labels, that are in another
    split, and that are gone; `sentences` say so.
    """

    new: int
    new_by_category: dict[str, int]
    relabelled: int
    moved: int
    gone: int
    sentences: tuple[Notice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The numbers, for the record of a run."""
        return {name: value for name, value in asdict(self).items() if name != "sentences"}


def up_to_date(output: str, digests: Mapping[Key, str]) -> set[Key]:
    """Which fits at `output` were made from these supports, given by (shots, seed)."""
    there = [(key, uri) for key, uri in fit_files.list_fits(output).items() if key in digests]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read_provenance, [uri for _, uri in there]))
    return {
        key
        for (key, _), known in zip(there, found, strict=True)
        if known and known.support_digest == digests[key]
    }


def keep_labels(labels: LabelTable, output: str) -> None:
    """Write names, splits and labels of a label table to the training output, if not there yet."""
    uri = _labels_uri(output, labels.digest)
    if storage.exists(uri):
        return
    table = pa.table(
        {
            "archive": pa.array(map(storage.clean, labels.archive), pa.string()),
            "member": pa.array(map(storage.clean, labels.member), pa.string()),
            "split": pa.array(labels.split, pa.string()),
            "labels": pa.array(_texts(labels), pa.string()),
        }
    )
    storage.write_bytes(uri, parquet.encode(table))


def label_changes(before: str, labels: LabelTable, output: str) -> LabelChanges | None:
    """What differs from the table with the digest `before`; None if that was not kept.

    Raises `UserError` if the two have no image in common.
    """
    try:
        kept = parquet.decode(storage.read_bytes(_labels_uri(output, before)))
    except FileNotFoundError:
        return None
    rows = zip(*(kept[name].to_pylist() for name in ("archive", "member")), strict=True)
    was = dict(zip(rows, zip(*_columns(kept), strict=True), strict=True))
    names = zip(map(storage.clean, labels.archive), map(storage.clean, labels.member), strict=True)
    now = dict(zip(names, zip(labels.split, _texts(labels), strict=True), strict=True))
    if was and not was.keys() & now.keys():
        raise UserError(
            f"the label table has no image in common with the one that the fits at {output} were "
            "made from; choose another output"
        )
    new = [image for image in now if image not in was]
    both = [image for image in now if image in was]
    relabelled = [image for image in both if now[image][1] != was[image][1]]
    moved = [image for image in both if now[image][0] != was[image][0]]
    gone = [image for image in was if image not in now]
    by_category: Counter[str] = Counter()
    for image in new:
        by_category.update(now[image][1].split(";") if now[image][1] else [NORMAL])
    ordered = {
        name: by_category[name] for name in (*labels.categories, NORMAL) if by_category[name]
    }
    return LabelChanges(
        new=len(new),
        new_by_category=ordered,
        relabelled=len(relabelled),
        moved=len(moved),
        gone=len(gone),
        sentences=tuple(
            [
                *_new(new, ordered, Counter(now[image][0] for image in new)),
                *_said(relabelled, "labels", "has other labels", "have other labels"),
                *_said(moved, "split", "is in another split", "are in another split"),
                *_said(gone, "gone", "is gone from it", "are gone from it"),
            ]
            or [Notice("the patients of some images, or the order of the table, have changed")]
        ),
    )


def _columns(kept: pa.Table) -> tuple[list[str], list[str]]:
    return kept["split"].to_pylist(), kept["labels"].to_pylist()


def _texts(labels: LabelTable) -> list[str]:
    """The labels of each image as text, categories in the order of the catalog."""
    names = labels.categories
    return [";".join(names[c] for c in np.flatnonzero(row)) for row in labels.labels]


def _labels_uri(output: str, digest: str) -> str:
    return storage.join(output, "labels", f"{digest}.parquet")


def _new(images: list[Image], by_category: dict[str, int], splits: Counter[str]) -> list[Notice]:
    if not images:
        return []
    listed = ", ".join(f"{name} {count:,}" for name, count in by_category.items())
    where = "" if len(splits) == 1 and "pool" in splits else ", by split: "
    where += (
        ", ".join(f"{name} {count:,}" for name, count in sorted(splits.items())) if where else ""
    )
    verb = "is" if len(images) == 1 else "are"
    text = f"{counted(len(images), 'image')} {verb} new ({listed}{where})"
    return [Notice(text, f"{text}: {some(images)}")]


def _said(images: list[Image], what: str, one: str, many: str) -> list[Notice]:
    if not images:
        return []
    text = f"{counted(len(images), 'image')} {one if len(images) == 1 else many}"
    return [Notice(text, f"{text}: {some(images)}")]


@dataclass(frozen=True)
class Refit:
    """What a training run finds at its output: fits to keep and fits to replace.

    `base` is the digest of the label table of the last finished run, None for the first run;
    `stale` are the fits that will be replaced, as they are listed now.
    """

    base: str | None
    changes: LabelChanges | None
    kept: set[Key]
    stale: dict[Key, StoredObject]
    earlier: str | None

    def to_json(self) -> dict[str, Any]:
        """What the record of the run says of it; empty if the labels are those of before."""
        if not self.stale and not self.changes:
            return {}
        return {
            "labels_before": self.base,
            "labels_changed": self.changes.to_json() if self.changes else None,
            "fits_replaced": len(self.stale),
            "fits_before": {f"{s}/{n}": entry.etag for (s, n), entry in self.stale.items()},
            "earlier_fits": self.earlier,
        }


def prepare(
    output: str,
    record: dict[str, Any],
    labels: LabelTable,
    digests: Mapping[Key, str],
    kept: set[Key],
    names: bool = False,
) -> Refit:
    """Compare the fits at `output`, whose record is `record`, with the supports drawn now.

    `digests` are those of the supports by (shots, seed), `kept` is what `up_to_date` says of them.
    Says in notices what has changed, with `names` of images; copies fits that will be replaced, and
    writes the label table.
    """
    base = record.get("labels_before") if record.get("status") != "finished" else None
    base = base or record.get("identity", {}).get("labels")
    changed = base is not None and base != labels.digest
    changes = label_changes(base, labels, output) if base and changed else None
    there = fit_files.entries(output)
    stale = {key: entry for key, entry in there.items() if key in digests and key not in kept}
    earlier = _keep_earlier(output, record) if stale else None
    keep_labels(labels, output)
    if changed:
        _say_labels(changes, names)
        place = f"; the fits of before are at {earlier}" if earlier else ""
        logs.notice(
            f"{len(stale):,} of {counted(len(stale) + len(kept), 'fit')} made again, because the "
            f"support has changed{place}"
            if stale
            else "no support has changed: all fits are kept"
        )
    _say_others([key for key in there if key not in digests] if changed else [])
    return Refit(base, changes, kept, stale, earlier)


def _say_labels(changes: LabelChanges | None, names: bool) -> None:
    if changes is None:
        logs.notice(
            "the label table has changed; the one before was not kept, so what changed is not known"
        )
        return
    for sentence in changes.sentences:
        logs.notice(sentence.after("label table: "), names)


def _say_others(others: list[Key]) -> None:
    if others:
        shown = ", ".join(f"shots={shots}/seed={seed}" for shots, seed in others[:3])
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        logs.notice(
            f"{counted(len(others), 'fit')} of earlier labels not looked at, because this command "
            f"does not have their shots and seeds: {shown}{more}"
        )


def _keep_earlier(output: str, record: dict[str, Any]) -> str | None:
    """Copy the fits of a finished run, whose record is `record`, to a place of their own.

    Returns the URI of the copy, a training output; None if the run had not finished.
    """
    if record.get("status") != "finished":
        return record.get("earlier_fits")
    place = storage.join(output, fit_files.EARLIER, record["identity"]["labels"])

    def copy(fit: tuple[Key, str]) -> None:
        (shots, seed), uri = fit
        storage.write_bytes(fit_files.fit_uri(place, shots, seed), storage.read_bytes(uri))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(copy, fit_files.list_fits(output).items()))
    run_record.write_record(place, record)
    return place


def replaced(before: Mapping[Key, StoredObject], output: str) -> set[Key]:
    """The fits at `output` except those that are still as they were listed in `before`."""
    now = fit_files.entries(output)
    return {key for key, entry in now.items() if before.get(key) != entry}

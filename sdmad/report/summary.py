"""A report on a scoring run without labels: `summary.html`, one page without network or scripts.

result = summarise_run("s3://bucket/scores", "runs/summary", archive=None, depth=None)
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.evaluation.overview import LEAST_UNITS, SHOWN, Overview, overview_of, rows_at
from sdmad.evaluation.sites import LARGE, LEAST_IMAGES, Group
from sdmad.evaluation.unlike import Far, Unlike, unlike_support
from sdmad.fits import code_version
from sdmad.report import bucket_plots
from sdmad.report.examples import Example, example
from sdmad.report.heatmaps import together_heatmap
from sdmad.report.localised import LocalisedSign, localised_gallery
from sdmad.report.plots import png_uri
from sdmad.report.templates import templates
from sdmad.report.words import why_no_finding
from sdmad.scoring import tables
from sdmad.scoring.similar import Search
from sdmad.storage import run_record
from sdmad.words import counted

JOB = "summary"
MOST_ROWS = 40


@dataclass(frozen=True)
class Summarised:
    """The counts of a run, the URI of the page, notices about what it lacks, and what is unlike the
    support, if activations were given."""

    overview: Overview
    page: str
    notices: list[str]
    unlike: Unlike | None = None


@dataclass(frozen=True)
class Galleries:
    """Example images: most anomalous, most uncertain, drawn at random, and farthest from the
    support; maps by example name, and the cosines of the farthest by name."""

    anomalous: list[Example]
    uncertain: list[Example]
    random: list[Example]
    farthest: list[Example] = field(default_factory=list)
    cosines: dict[str, float] = field(default_factory=dict)
    located: dict[str, list[LocalisedSign]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    nearest: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def num_unlocated(self) -> int:
        shown = (*self.anomalous, *self.uncertain, *self.random, *self.farthest)
        return sum(e.name not in self.located for e in shown if e.signs and e.picture)


def summarise_run(
    scores: str,
    output: str,
    archive: str | None = None,
    detector: str | None = None,
    depth: int | None = None,
    activations: str | None = None,
) -> Summarised:
    """Summarise a scoring run; `archive` and `detector` are their new places, if they have moved.

    Writes `summary.html` and `run.json` under `output`. `depth` is the depth of folders that are
    compared, 1 for those at the top. `activations`, the output of `sdmad encode` for the same
    archive, tell which images are unlike the support. Raises `UserError` if there is no run, no
    scored image, or if the activations are of other images.
    """
    if output == scores:
        raise UserError(f"{output} holds the scores; choose another output for the summary")
    run_record.read_earlier(output, JOB)
    overview = overview_of(scores)
    if not overview.images + overview.failures:
        raise UserError(f"no work unit of the scoring run {scores} is finished yet")
    groups = overview.groups.compared(depth)
    place = detector or overview.metadata.get("detector_uri", "")
    unlike = _unlike(scores, activations, place) if activations else None
    galleries = _galleries(scores, overview, archive, place, unlike.farthest if unlike else [])
    page = storage.join(output, "summary.html")
    storage.write_bytes(page, _render(scores, overview, groups, galleries, unlike).encode())
    notices = list(galleries.notes)
    if overview.units < overview.units_planned:
        notices.append(
            f"{counted(overview.units_planned - overview.units, 'work unit')} without scores yet"
        )
    if unlike and unlike.seeds_left:
        notices.append(
            f"the support of {unlike.seeds_left} seeds could not be drawn again, because the label "
            "table of the training run has changed"
        )
    run_record.write_record(output, _record(scores, overview, groups, unlike))
    return Summarised(overview, page, notices, unlike)


def _unlike(scores: str, activations: str, detector: str) -> Unlike:
    search = Search.open(activations)
    done = tables.done_units(scores)
    units = [unit for unit in search.units if unit in done]
    if not units:
        raise UserError(
            f"the activations {activations} have no work unit in common with the scores; encode "
            "the archive that was scored"
        )
    return unlike_support(search, detector, SHOWN, units)


def _record(
    scores: str, overview: Overview, groups: list[Group], unlike: Unlike | None
) -> dict[str, Any]:
    names = [*overview.categories, "any finding"]
    counts = [*overview.found.tolist(), overview.any]
    return {
        "job": JOB,
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": scores,
        "units": overview.units,
        "units_total": overview.units_planned,
        "images": overview.images,
        "failures": overview.failures,
        "findings": {
            name: {"images": count, "interval": overview.interval(c)}
            for c, (name, count) in enumerate(zip(names, counts, strict=True))
        },
        "different": [group.name for group in groups if group.different],
        "unlike_support": {
            "images": unlike.images,
            "beyond": unlike.beyond,
            "threshold": unlike.threshold,
            "expected_share": unlike.expected,
        }
        if unlike
        else None,
    }


def _galleries(
    scores: str, overview: Overview, archive: str | None, detector_uri: str, far: list[Far]
) -> Galleries:
    places = [
        best.places for best in (overview.most_anomalous, overview.most_uncertain, overview.random)
    ]
    records = [rows_at(scores, some) for some in places]
    records.append(_rows_of(scores, far))
    names = {(r["archive"], r["member"]) for some in records for r in some}
    base = archive or overview.metadata["archive"]
    notes = []
    pixels: dict[tuple[str, str], np.ndarray] = {}
    try:
        spec = ImageSpec.from_json(overview.metadata["input"])
        storage.check_readable(base, "archive")
        pixels, _ = decode_members(base, sorted(names), spec)
    except (KeyError, ValueError, UserError, FileNotFoundError):
        notes.append(
            f"no pictures: the archive {base} cannot be read; give its place with --archive"
        )
    if not notes and len(pixels) < len(names):
        notes.append(f"{len(names) - len(pixels)} of {len(names)} example images cannot be read")
    shown = [
        [
            example(record, None, png_uri(pixels[name]) if name in pixels else "")
            for record in some
            for name in [(record["archive"], record["member"])]
        ]
        for some in records
    ]
    located, note = _located(overview, detector_uri, shown, records, pixels)
    notes += [note] if note else []
    by_uri = {one.uri: one.cosine for one in far}
    farthest = zip(shown[3], records[3], strict=True)
    cosines = {one.name: by_uri[record["uri"]] for one, record in farthest}
    return Galleries(shown[0], shown[1], shown[2], shown[3], cosines, located, notes)


def _rows_of(scores: str, far: list[Far]) -> list[dict[str, Any]]:
    """The score rows of images, in their order; those without scores are left out."""
    found: dict[str, dict[str, Any]] = {}
    for unit in {one.unit for one in far}:
        uris = pa.array([one.uri for one in far if one.unit == unit])
        rows = tables.read_part(scores, "scores", unit)
        found |= {r["uri"]: r for r in rows.filter(pc.is_in(rows["uri"], uris)).to_pylist()}
    return [found[one.uri] for one in far if one.uri in found]


def _located(
    overview: Overview,
    place: str,
    shown: list[list[Example]],
    records: list[list[dict[str, Any]]],
    pixels: dict[tuple[str, str], np.ndarray],
) -> tuple[dict[str, list[LocalisedSign]], str]:
    """Maps of the signs of examples by name, and why there are none."""
    examples, images = [], []
    for some, rows in zip(shown, records, strict=True):
        for one, row in zip(some, rows, strict=True):
            if one.signs and (name := (row["archive"], row["member"])) in pixels:
                examples.append(one)
                images.append(pixels[name])
    if not examples:
        return {}, ""
    try:
        detector = Detector.load(place)
    except UserError as error:
        return {}, f"no maps of signs: {error}"
    if detector.digest != overview.metadata["detector"]:
        return {}, f"no maps of signs: the detector at {place} did not make these scores"
    return localised_gallery(detector, examples, images), ""


def _render(
    scores: str,
    overview: Overview,
    groups: list[Group],
    galleries: Galleries,
    unlike: Unlike | None,
) -> str:
    titles = [name.replace("_", " ") for name in overview.categories]
    ordered = sorted(groups, key=lambda g: (not g.different, -abs(np.nan_to_num(g.shift))))
    drawn = sorted(ordered[: bucket_plots.MOST_DRAWN], key=lambda g: g.name)
    context = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": code_version(),
        "name": "/".join(scores.rstrip("/").split("/")[-2:]),
        "scores": scores,
        "overview": overview,
        "metadata": overview.metadata,
        "rows": _rows(overview),
        "num_seeds": overview.by_seed.shape[1],
        "sentences": sentences(overview, groups, unlike),
        "unlike": unlike,
        "histograms": bucket_plots.histograms(overview, titles),
        "together": together_heatmap(overview.together, overview.images, list(overview.categories)),
        "groups": ordered[:MOST_ROWS],
        "num_groups": len(groups),
        "group_chart": bucket_plots.group_chart(drawn) if groups else "",
        "notable": {g.name: _notable(g, overview.categories) for g in ordered[:MOST_ROWS]},
        "num_drawn": len(drawn),
        "large": LARGE,
        "least_images": LEAST_IMAGES,
        "least_units": LEAST_UNITS,
        "most_shown": SHOWN,
        "reasons": sorted(overview.reasons.items(), key=lambda item: -item[1].images),
        "inspection": galleries,
    }
    return templates().get_template("summary.html").render(context)


@dataclass(frozen=True)
class FindingRow:
    """A row of the table of findings; shares are of all images, `seeds` the range over seeds."""

    name: str
    images: int
    share: float
    low: float
    high: float
    alone: int | None
    uncertain: int
    seeds: tuple[float, float] | None


def _rows(overview: Overview) -> list[FindingRow]:
    """Of all categories, the most frequent first, and of any finding if there are several."""
    total = max(1, overview.images)
    rows = []
    for c, name in enumerate(overview.categories):
        seeds = overview.by_seed[c] / total
        rows.append(
            FindingRow(
                name=name,
                images=int(overview.found[c]),
                share=float(overview.found[c] / total),
                low=overview.interval(c)[0],
                high=overview.interval(c)[1],
                alone=int(overview.alone[c]),
                uncertain=int(overview.uncertain[c]),
                seeds=(float(seeds.min()), float(seeds.max())) if len(seeds) else None,
            )
        )
    rows.sort(key=lambda row: -row.images)
    if len(rows) == 1:
        return rows
    low, high = overview.interval(len(overview.categories))
    share = overview.any / total
    last = FindingRow("any finding", overview.any, share, low, high, None, overview.doubted, None)
    return [*rows, last]


def sentences(overview: Overview, groups: list[Group], unlike: Unlike | None = None) -> list[str]:
    """What the page says, in plain words."""
    images = overview.images
    failed = f"{overview.failures:,} of them failed" if overview.failures else "all of them scored"
    said = [f"{images + overview.failures:,} images, {failed}."]
    rows = _rows(overview)
    if images:
        said.append(f"{overview.any:,} ({_percent(overview.any / images)}) have a finding")
        several = len(overview.categories) > 1
        said[-1] += f", and {overview.several:,} of these several." if several else "."
        top = rows[0]
        if top.images:
            said.append(
                f"The most frequent is {top.name.replace('_', ' ')}, in {_percent(top.share)} of "
                f"the images (95 % interval {100 * top.low:.1f} to {_percent(top.high)})."
            )
        categories = rows[: len(overview.categories)]
        none = [row.name.replace("_", " ") for row in categories if not row.images]
        if none:
            said.append(f"Never found: {', '.join(none)}.")
        if not overview.any:
            said += why_no_finding(overview.metadata)
    different = [group.name for group in groups if group.different]
    if different:
        more = f" and {len(different) - 3:,} more" if len(different) > 3 else ""
        said.append(f"Different from the rest: {', '.join(different[:3])}{more}.")
    elif groups:
        said.append(f"None of {len(groups):,} folders or shards is very different from the rest.")
    if unlike:
        said.append(
            f"{unlike.beyond:,} ({_percent(unlike.share)}) are unlike anything in the support; "
            f"{_percent(unlike.expected)} would be by chance."
        )
    return said


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _notable(group: Group, categories: tuple[str, ...]) -> str:
    """The category whose share differs most from that in the other images."""
    difference = group.shares[:-1] - group.others[:-1]
    c = int(np.argmax(np.abs(difference)))
    if not group.images or abs(difference[c]) < 0.01:
        return ""
    return (
        f"{categories[c].replace('_', ' ')} {_percent(group.shares[c])}, "
        f"elsewhere {_percent(group.others[c])}"
    )

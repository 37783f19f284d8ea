"""Choose the images of a scoring run that are worth labelling next.

sdmad suggest --scores s3://bucket/scores --count 50 --output to-label.csv --page to-label.html
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sdmad.commands.options import Activations, Scores
from sdmad.runtime.cli import say

if TYPE_CHECKING:
    from sdmad.scoring.suggestions.run import Suggested


def suggest(
    scores: Scores,
    output: Annotated[
        str, typer.Option(help="Label table to write, with empty labels: CSV, path or s3:// URI.")
    ],
    count: Annotated[int, typer.Option(help="Number of images to ask for.", min=1)] = 50,
    labels: Annotated[
        str | None,
        typer.Option(help="Label table, CSV or Parquet: images in it are not asked again."),
    ] = None,
    patients: Annotated[
        str | None,
        typer.Option(
            help="Table of images and their patient_id: fills that column, and leaves out patients "
            "of the test split."
        ),
    ] = None,
    activations: Activations = None,
    at_random: Annotated[
        bool,
        typer.Option(
            "--at-random",
            help="Draw images at random, for the split validation, which calibrate needs.",
        ),
    ] = False,
    page: Annotated[
        str | None,
        typer.Option(help="Page to write (.html) on which a reader labels the images."),
    ] = None,
    label_studio: Annotated[
        str | None,
        typer.Option(
            help="Import file of Label Studio to write (.json); its configuration is beside it, "
            "as .xml."
        ),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(help="Checkpoint of the backbone of --activations. Default: as encoded."),
    ] = None,
) -> None:
    """Choose the images of a scoring run that are worth labelling next.

    Likely positives of categories with few labels, and images near the
    threshold; with --activations images that look alike are asked once. For
    calibration, --at-random draws them instead.
    """
    from sdmad import logs, storage
    from sdmad.errors import UserError
    from sdmad.report import suggested
    from sdmad.scoring.suggestions.run import suggest, suggest_at_random

    def place(uri: str | None) -> str | None:
        return None if uri is None else storage.resolve(uri)

    source, target = storage.resolve(scores), storage.resolve(output)
    html, studio = place(page), place(label_studio)
    suggested.check_outputs(target, html, studio)
    table, owners = place(labels), place(patients)
    if at_random:
        if activations:
            raise UserError("--at-random reads no activations; leave out --activations")
        found = suggest_at_random(source, count, table, owners)
    else:
        found = suggest(source, count, table, place(activations), owners, backbone_weights)
    suggested.write_table(found, target)
    written = [target]
    notices = list(found.notices)
    if html or studio:
        shown = suggested.read_pictures(found)
        notices += [shown.note] if shown.note else []
        if html:
            suggested.write_page(found, shown, html)
            written.append(html)
        if studio:
            written += [studio, suggested.write_tasks(found, shown, studio)]
    if not patients:
        notices.append(
            "patient_id is empty: fill it in, which training and calibration need, or give "
            "--patients"
        )
    for notice in notices:
        logs.notice(notice)
    for line in _lines(found):
        say(line)
    say(f"wrote {', '.join(written)}")


def _lines(found: "Suggested") -> Iterator[str]:
    """How many images are asked, and for which categories."""
    from sdmad.words import counted

    yield (
        f"{counted(len(found.asked), 'image')} to label, of {counted(found.images, 'scored image')}"
        f" ({found.labelled:,} labelled already), "
        + (f"spread over {found.spread}" if found.spread else "drawn at random")
    )
    asked = Counter((one.category, one.reason) for one in found.asked)
    for category in dict.fromkeys(one.category for one in found.asked if one.category):
        likely, uncertain = asked[category, "likely"], asked[category, "uncertain"]
        yield f"  {category:24s} {likely:4d} likely  {uncertain:4d} uncertain"

"""Aggregate the scores of a scoring run by study, patient or any other group.

sdmad aggregate --scores s3://bucket/scores --groups groups.csv --by study_id --output runs/studies
"""

from typing import Annotated

import typer

from sdmad.commands.options import How, Names, Scores, TopK
from sdmad.runtime.cli import say


def aggregate(
    scores: Scores,
    groups: Annotated[
        str,
        typer.Option(
            help="Table of images and their groups, CSV or Parquet: path or s3:// URI. "
            "A label table will do."
        ),
    ],
    by: Annotated[str, typer.Option(help="Column with the group, e.g. study_id.")],
    output: Annotated[str, typer.Option(help="Where to write groups.parquet: path or s3:// URI.")],
    how: How = "maximum",
    top_k: TopK = 3,
    names: Names = False,
) -> None:
    """Aggregate the scores of a scoring run by study, patient or any other group.

    Writes groups.parquet with exactly one row for each group: scores, findings
    and the images that carry them. Needs neither images nor detector.
    """
    from sdmad import logs, storage
    from sdmad.errors import UserError
    from sdmad.inputs.matching import SHOWN
    from sdmad.scoring.groups.pooling import Pooling
    from sdmad.scoring.groups.run import JOB, aggregate_scores, write_groups
    from sdmad.storage import run_record
    from sdmad.words import counted

    pooling = Pooling.parse(how, top_k)
    source, target = storage.resolve(scores), storage.resolve(output)
    if source == target:
        raise UserError(f"{target} holds the scores; choose another output for the groups")
    run_record.read_earlier(target, JOB)
    storage.check_writable(target)
    found = aggregate_scores(source, storage.resolve(groups), by, pooling)
    uri = write_groups(found, target)
    for notice in found.notices:
        logs.notice(notice, names)
    say(
        f"{counted(found.table.num_rows, 'group')} by {found.by}, "
        f"{counted(found.images, 'image')} with scores, by {pooling}"
    )
    if found.empty:
        more = f" and {len(found.empty) - SHOWN:,} more" if len(found.empty) > SHOWN else ""
        listed = f": {', '.join(found.empty[:SHOWN])}{more}" if names else ""
        say(f"{counted(len(found.empty), 'group')} without images{listed}")
    listed = ", ".join(f"{name} {number:,}" for name, number in found.findings.items())
    say(f"groups with findings: {listed or 'none'}")
    say(f"wrote {uri}")

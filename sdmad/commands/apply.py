"""Use a decision file on score tables, without images.

sdmad apply --decision runs/decision.json --scores runs/scores --output runs/decided
"""

from typing import Annotated

import typer

from sdmad.commands.options import Scores
from sdmad.runtime.cli import say


def apply(
    decision: Annotated[
        str, typer.Option(help="Decision file (the --output of calibrate): path or s3:// URI.")
    ],
    scores: Scores,
    output: Annotated[str, typer.Option(help="Where to write the tables: path or s3:// URI.")],
) -> None:
    """Use a decision file on score tables, without images.

    Writes tables with the same columns: calibrated probabilities, and the
    findings of the decision. The same command again adds work units that were
    scored since.
    """
    from sdmad import logs, storage
    from sdmad.scoring.redecide import apply_decision
    from sdmad.words import counted

    target = storage.resolve(output)
    storage.check_writable(target)
    done = apply_decision(storage.resolve(decision), storage.resolve(scores), target)
    if done.waiting:
        logs.notice(f"{done.waiting:,} of {done.planned:,} work units have no scores yet")
    if not done.units:
        say(
            f"nothing to do: {counted(done.skipped, 'work unit')} decided before; the tables are "
            f"at {target}"
        )
        return
    say(
        f"decided {counted(done.images, 'image')} in {counted(done.units, 'work unit')}: "
        f"{counted(done.findings_before, 'finding')} became {done.findings:,}; the tables are "
        f"at {target}"
    )

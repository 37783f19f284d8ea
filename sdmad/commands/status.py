"""Tell how far a scoring, encoding or training run is, from any machine.

sdmad status --output s3://bucket/scores
"""

from typing import Annotated

import typer

from sdmad.runtime.cli import say


def status(
    output: Annotated[
        str, typer.Option(help="The --output of score, encode or train: path or s3:// URI.")
    ],
    names: Annotated[
        bool, typer.Option("--names", help="Also name the images in the examples of failures.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell how far a scoring, encoding or training run is, from any machine.

    While it works or after it: what is done, rate, time left, whether it is
    alive, the bottleneck, and failures by reason. Reads listings, run.json and
    at most 300 small tables.
    """
    from dataclasses import asdict
    from json import dumps

    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.fitting import status as fitting
    from sdmad.scoring import status as scoring
    from sdmad.storage import run_record

    target = storage.resolve(output)
    job = run_record.read_record(target).get("job")
    if job in scoring.TABLE:
        found = scoring.read_status(target)
        content, shown = asdict(found), scoring.lines(found, names)
        if not names:
            for kind in content["failures"]["kinds"]:
                for example in kind["examples"]:
                    del example["uri"]
    elif job == fitting.JOB:
        trained = fitting.read_status(target)
        content, shown = asdict(trained), fitting.lines(trained)
    else:
        raise UserError(
            f"{target} holds the results of another job ({job or 'unknown'}); give the --output of "
            "`sdmad score`, `sdmad encode` or `sdmad train`"
        )
    if json:
        typer.echo(dumps({"job": job} | content, indent=2))
        return
    for line in shown:
        say(line)

"""Hours, requests, bytes and cost of scoring an archive, and what will limit it.

sdmad plan --images 1e8 --kilobytes 300 --run s3://bucket/scores/run.json \
    --cores 128 --detectors 8 --gigabits 50 --dollars 12
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

if TYPE_CHECKING:
    from sdmad.scoring.capacity import Estimate, Pace


def plan(
    images: Annotated[float, typer.Option(help="Images of the archive.")],
    kilobytes: Annotated[float, typer.Option(help="Mean size of an encoded image.")],
    cores: Annotated[float, typer.Option(help="Cores that read and decode.")],
    detectors: Annotated[float, typer.Option(help="GPUs, or detectors on CPUs.")],
    gigabits: Annotated[float, typer.Option(help="Network to the store, all nodes together.")],
    run: Annotated[
        str | None, typer.Option(help="run.json of a run on such machines: its pace.")
    ] = None,
    read_ms: Annotated[float | None, typer.Option(help="Read an image; replaces --run's.")] = None,
    decode_ms: Annotated[
        float | None, typer.Option(help="Decode an image on a core; replaces --run's.")
    ] = None,
    model_ms: Annotated[
        float | None, typer.Option(help="The model on a detector; replaces --run's.")
    ] = None,
    driver_ms: Annotated[
        float | None, typer.Option(help="The driver an image; replaces --run's.")
    ] = None,
    commit_ms: Annotated[
        float | None, typer.Option(help="The driver a work unit; replaces --run's.")
    ] = None,
    images_per_object: Annotated[float, typer.Option(help="1 for loose objects.")] = 1000,
    dollars: Annotated[float, typer.Option(help="Price of an hour of all nodes.")] = 0,
    start_minutes: Annotated[float, typer.Option(help="Until nodes run detectors.")] = 5,
) -> None:
    """Print the estimate; docs/scale.md says what it leaves out."""
    from sdmad.errors import UserError
    from sdmad.scoring.capacity import Archive, Cluster, estimate

    needed = {"read": read_ms, "decode": decode_ms, "model": model_ms}
    try:
        pace = _pace(run, needed | {"driver": driver_ms, "commit": commit_ms})
        found = estimate(
            Archive(
                images=int(images),
                bytes_per_image=1000 * kilobytes,
                images_per_object=images_per_object,
            ),
            pace,
            Cluster(
                cores=cores,
                detectors=detectors,
                gigabits=gigabits,
                dollars=dollars,
                start_minutes=start_minutes,
            ),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])).replace("_", "-")
        raise UserError(f"{name}: {problem['msg']}") from None
    _show(found, pace, start_minutes)


def _show(found: "Estimate", pace: "Pace", start_minutes: float) -> None:
    typer.echo(f"busy an image: {_shown(pace)}")
    for part, hours in found.hours_alone.items():
        mark = "  <- the limit" if part == found.limit else ""
        typer.echo(f"  {part:10s} alone {hours:12,.2f} h{mark}")
    typer.echo(f"hours             {found.hours:12,.2f} with {start_minutes:g} minutes of start")
    typer.echo(f"images a second   {found.images_per_second:12,.0f}")
    typer.echo(f"read              {found.gigabytes:12,.0f} GB")
    typer.echo(
        f"requests          {found.get_requests:12,.0f} GET, {found.put_requests:,.0f} PUT, "
        f"{found.list_requests:,.0f} LIST"
    )
    nodes = f"{found.node_dollars:,.0f} $ of nodes, " if found.node_dollars else ""
    typer.echo(f"cost              {nodes}{found.request_dollars:,.2f} $ of requests")


def _pace(run: str | None, given: dict[str, float | None]) -> "Pace":
    """Milliseconds that are given replace those of the run."""
    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.scoring.capacity import Pace

    content: dict[str, float] = {}
    if run:
        try:
            record = json.loads(storage.read_file(storage.resolve(run), "run.json"))
            content = Pace.of_run(record).model_dump()
        except ValueError as error:
            raise UserError(f"{run} tells no pace: {error}; give that of a finished run") from None
    content |= {name: value / 1000 for name, value in given.items() if value is not None}
    missing = [name for name in ("read", "decode", "model") if name not in content]
    if missing:
        raise UserError(f"give --run, or --{missing[0]}-ms: milliseconds an image")
    return Pace.model_validate(content)


def _shown(pace: "Pace") -> str:
    parts = {"read": pace.read, "decode": pace.decode, "model": pace.model}
    shown = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in parts.items())
    driver = f"{1000 * pace.driver:.3g} ms and {1000 * pace.commit:.3g} ms a unit"
    return f"{shown}, driver {driver}"

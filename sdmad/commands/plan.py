"""Estimate hours, requests and cost of scoring an archive.

sdmad plan --images 1e8 --kilobytes 300 --run s3://bucket/scores/run.json \
    --cores 128 --detectors 8 --gigabits 50 --dollars 12
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from sdmad.runtime.cli import say

if TYPE_CHECKING:
    from sdmad.scoring.capacity import Estimate, Pace


def plan(
    images: Annotated[float, typer.Option(help="Number of images, e.g. 1e8.")],
    kilobytes: Annotated[float, typer.Option(help="Mean size of an encoded image, in kB.")],
    cores: Annotated[float, typer.Option(help="Cores that read and decode, all nodes together.")],
    detectors: Annotated[float, typer.Option(help="GPUs, or detector actors on CPUs.")],
    gigabits: Annotated[
        float, typer.Option(help="Network to the store in Gbit/s, all nodes together.")
    ],
    run: Annotated[
        str | None,
        typer.Option(
            help="run.json of a finished scoring run on the same kind of machine; gives the times."
        ),
    ] = None,
    read_ms: Annotated[
        float | None, typer.Option(help="Milliseconds to read an image. Default: from --run.")
    ] = None,
    decode_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds to decode an image on a core. Default: from --run."),
    ] = None,
    model_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds of a detector for an image. Default: from --run."),
    ] = None,
    driver_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds of the driver for an image. Default: from --run, else 0.2."
        ),
    ] = None,
    commit_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds of the driver for a work unit. Default: from --run, else 50."
        ),
    ] = None,
    images_per_object: Annotated[
        float, typer.Option(help="Images in a shard; 1 for loose objects.")
    ] = 1000,
    dollars: Annotated[float, typer.Option(help="Price of all nodes for an hour, in dollars.")] = 0,
    start_minutes: Annotated[float, typer.Option(help="Minutes until detectors run.")] = 5,
) -> None:
    """Estimate hours, requests and cost of scoring an archive.

    Also prints which part limits the speed: readers, detectors, network or
    driver. docs/scale.md explains the estimate and what it leaves out.
    """
    from sdmad.scoring.capacity import Archive, Cluster, estimate

    times = {"read": read_ms, "decode": decode_ms, "model": model_ms}
    with _options_named():
        pace = _pace(run, times | {"driver": driver_ms, "commit": commit_ms})
        archive = Archive(
            images=int(images),
            bytes_per_image=1000 * kilobytes,
            images_per_object=images_per_object,
        )
        cluster = Cluster(
            cores=cores,
            detectors=detectors,
            gigabits=gigabits,
            dollars=dollars,
            start_minutes=start_minutes,
        )
    _show(estimate(archive, pace, cluster), pace, start_minutes)


@contextmanager
def _options_named() -> Iterator[None]:
    """A value out of range becomes a `UserError` that names its option."""
    from sdmad.errors import UserError

    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])).replace("_", "-")
        raise UserError(f"{name}: {problem['msg']}") from None


def _show(found: "Estimate", pace: "Pace", start_minutes: float) -> None:
    say(f"busy time per image: {_shown(pace)}")
    for part, hours in found.hours_alone.items():
        mark = "  <- the limit" if part == found.limit else ""
        say(f"  {part:10s} alone {hours:12,.2f} h{mark}")
    say(f"hours             {found.hours:12,.2f} including {start_minutes:g} minutes to start")
    say(f"images per second {found.images_per_second:12,.0f}")
    say(f"data read         {found.gigabytes:12,.0f} GB")
    say(
        f"requests          {found.get_requests:12,.0f} GET, {found.put_requests:,.0f} PUT, "
        f"{found.list_requests:,.0f} LIST"
    )
    nodes = f"{found.node_dollars:,.0f} $ for nodes, " if found.node_dollars else ""
    say(f"cost              {nodes}{found.request_dollars:,.2f} $ for requests")


def _pace(run: str | None, given: dict[str, float | None]) -> "Pace":
    """The pace of the run; times in `given` (milliseconds) replace its values."""
    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.scoring.capacity import Pace

    content: dict[str, float] = {}
    if run:
        try:
            record = json.loads(storage.read_file(storage.resolve(run), "run.json"))
            content = Pace.of_run(record).model_dump()
        except ValueError as error:
            raise UserError(
                f"{run} has no times to estimate from: {error}; give the run.json of a finished "
                "scoring run"
            ) from None
    content |= {name: value / 1000 for name, value in given.items() if value is not None}
    missing = [name for name in ("read", "decode", "model") if name not in content]
    if missing:
        raise UserError(f"give --run, or --{missing[0]}-ms in milliseconds per image")
    return Pace.model_validate(content)


def _shown(pace: "Pace") -> str:
    parts = {"read": pace.read, "decode": pace.decode, "model": pace.model}
    shown = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in parts.items())
    driver = f"{1000 * pace.driver:.3g} ms, and {1000 * pace.commit:.3g} ms per work unit"
    return f"{shown}, driver {driver}"

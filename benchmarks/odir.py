"""The whole job on ODIR-5K shards in a bucket on this machine, with the seconds of each step.

    python benchmarks/odir.py --data DIRECTORY --output runs/odir --backbone FOLDER

DIRECTORY holds the tar shards and labels.csv. Each job runs in a process of its own, as for a user:
fit, score, verify and evaluate, for SD-MAD and for zero-shot CLIP as the baseline.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from sdmad import storage
from sdmad.demo.local_s3 import local_s3

ROOT = Path(__file__).parents[1]
ARCHIVE = "s3://odir/archive"


def run(job: str, *arguments: str) -> float:
    """Run one job and return its seconds; end this program when the job fails."""
    begin = time.monotonic()
    print(f"$ python jobs/{job}.py {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, f"jobs/{job}.py", *arguments], cwd=ROOT).returncode
    if code:
        sys.exit(code)
    return time.monotonic() - begin


def main(
    data: Annotated[Path, typer.Option(help="Folder with the shards and labels.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for all output.")] = Path("runs/odir"),
    seeds: Annotated[str, typer.Option(help="Seeds.")] = "0:8",
    shots: Annotated[int, typer.Option(help="Shots of each support.")] = 4,
    backbone: Annotated[str, typer.Option(help="Backbone, e.g. a folder.")] = "phantom",
) -> None:
    """Upload, fit, score, verify and evaluate; print the seconds of each step."""
    output = output.resolve()
    seconds = {}
    with local_s3("odir"):
        for path in sorted(data.iterdir()):
            storage.write_bytes(f"{ARCHIVE}/{path.name}", path.read_bytes())
        for name, config in (("zero-shot", "odir_zero_shot"), ("sd-mad", "odir")):
            train, scores = f"{output}/{name}/train", f"{output}/{name}/scores"
            seconds[f"{name}: fit"] = run(
                "train_seeds",
                *("--config", f"configs/{config}.yaml", "--output", train),
                *("--seeds", seeds, "--shots", str(shots), "--backbone", backbone),
            )
            seconds[f"{name}: score"] = run(
                "score_archive",
                *("--archive", ARCHIVE, "--detector", train, "--output", scores),
            )
            seconds[f"{name}: verify"] = run(
                "verify_scores", "--archive", ARCHIVE, "--scores", scores
            )
        seconds["evaluate"] = run(
            "evaluate",
            *("--scores", f"{output}/sd-mad/scores", "--labels", f"{ARCHIVE}/labels.csv"),
            *("--baseline", f"zero-shot={output}/zero-shot/scores", "--output", f"{output}/report"),
        )
    for name, value in seconds.items():
        print(f"{name:20s} {value:7.1f} s")
    print(f"{'all':20s} {sum(seconds.values()):7.1f} s")


if __name__ == "__main__":
    typer.run(main)

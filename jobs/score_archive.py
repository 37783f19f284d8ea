"""Score all images of an archive with Ray Data and write Parquet score tables.

    python jobs/score_archive.py --archive s3://bucket/odir --detector runs/odir/train \\
        --output s3://bucket/odir-scores
"""

from sdmad.commands.score import score
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(score)

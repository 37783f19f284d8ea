"""Summarise a scored bucket without labels, as one page.

python jobs/summary.py --scores s3://bucket/scores --output runs/summary
"""

from sdmad.commands.summary import summary
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(summary)

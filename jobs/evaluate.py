"""Compute the metrics of the three protocols and write a report.

python jobs/evaluate.py --scores s3://bucket/scores --labels s3://bucket/labels.csv \\
        --output runs/report
"""

from sdmad.commands.evaluate import evaluate
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(evaluate)

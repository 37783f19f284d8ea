"""Aggregate the scores of a scoring run by study, patient or any other group.

python jobs/aggregate.py --scores s3://bucket/scores --groups groups.csv --by study_id \\
        --output runs/studies
"""

from sdmad.commands.aggregate import aggregate
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(aggregate)

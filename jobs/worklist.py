"""List the most anomalous images or groups of a scoring run, as CSV and as a page.

python jobs/worklist.py --scores s3://bucket/scores --top 50 --output s3://bucket/worklist.csv
"""

from sdmad.commands.worklist import worklist
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(worklist)

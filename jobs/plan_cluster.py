"""Estimate hours, requests and cost of scoring an archive.

python jobs/plan_cluster.py --images 1e8 --kilobytes 300 --run s3://bucket/scores/run.json \
    --cores 128 --detectors 8 --gigabits 50 --dollars 12
"""

from sdmad.commands.plan import plan
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(plan)

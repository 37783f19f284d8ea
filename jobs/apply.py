"""Use a decision file on score tables, without images.

python jobs/apply.py --decision runs/decision.json --scores runs/scores --output runs/decided
"""

from sdmad.commands.apply import apply
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(apply)

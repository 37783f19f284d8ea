"""Fit Shift Adapters with Ray Train, one fit for each number of shots and each seed.

python jobs/train_seeds.py --config configs/odir.yaml --output runs/odir/train
ray job submit --working-dir . -- python jobs/train_seeds.py --config ... --output s3://...
"""

from sdmad.commands.train import train
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(train)

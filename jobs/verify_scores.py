"""Check that each image of an archive is exactly once in scores or failures.

python jobs/verify_scores.py --archive s3://bucket/odir --scores s3://bucket/odir-scores
"""

from sdmad.commands.verify import verify
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(verify)

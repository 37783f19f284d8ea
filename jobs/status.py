"""Tell how far a scoring or training run is, from any machine.

python jobs/status.py --output s3://bucket/scores
"""

from sdmad.commands.status import status
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(status)

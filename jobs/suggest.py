"""Choose the images of a scoring run that are worth labelling next.

python jobs/suggest.py --scores s3://bucket/scores --count 50 --output s3://bucket/to-label.csv
"""

from sdmad.commands.suggest import suggest
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(suggest)

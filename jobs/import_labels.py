"""Turn an export of Label Studio into a label table.

python jobs/import_labels.py export.json --labels s3://bucket/labels.csv --output more.csv
"""

from sdmad.commands.labels import import_labels
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(import_labels)

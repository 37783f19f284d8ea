"""Convert a public dataset into an archive of tar shards and a label table.

python jobs/convert_dataset.py --recipe chest_xray --source downloads/ChestX-ray14 \\
        --output s3://bucket/chest-xray/archive
"""

from sdmad.commands.convert import convert
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(convert)

"""Encode all images of an archive once, so that detectors score it without reading images.

    python jobs/encode_archive.py --archive s3://bucket/odir --config configs/odir.yaml \\
        --output s3://bucket/odir-activations
"""

from sdmad.commands.encode import encode
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(encode)

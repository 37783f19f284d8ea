"""Find the images most like an image or a text, or images that are nearly equal.

    python jobs/similar_images.py --activations s3://bucket/odir-activations \\
        --text "cotton wool spots" --top 20
"""

from sdmad.commands.similar import similar
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(similar)

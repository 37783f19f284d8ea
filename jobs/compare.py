"""Compare SD-MAD with CLIP-based baselines or with variants of itself.

python jobs/compare.py --config configs/comparisons/phantoms.yaml --output runs/compare
"""

from sdmad.commands.compare import compare
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(compare)

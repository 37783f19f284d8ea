"""Train the embedded backbone on synthetic phantoms.

python jobs/pretrain_backbone.py --output sdmad/phantoms/weights
"""

from sdmad.commands.pretrain_backbone import pretrain_backbone
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(pretrain_backbone)

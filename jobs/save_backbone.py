"""Save a backbone as a folder that loads without internet.

python jobs/save_backbone.py --model hf-hub:organisation/name --output s3://bucket/backbones/name
"""

from sdmad.commands.save_backbone import save_backbone
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(save_backbone)

"""Draft a sign catalog with a language model, for review by an expert.

python jobs/write_signs.py --modality "chest X-ray" --categories "effusion,cardiomegaly,nodule" \\
        --output chest.yaml
"""

from sdmad.commands.write_signs import write_signs
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(write_signs)

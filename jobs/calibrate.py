"""Choose thresholds and calibrate probabilities on labelled images; write a decision file.

python jobs/calibrate.py --scores runs/scores --labels labels.csv --specificity 0.95 \\
        --prevalence effusion=0.05 --output runs/decision.json
"""

from sdmad.commands.calibrate import calibrate
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(calibrate)

"""Run the whole workflow on synthetic images, on this machine.

python jobs/demo.py --output runs/demo
"""

from sdmad.commands.demo import demo
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(demo)

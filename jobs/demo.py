"""All of it on the embedded default, on this machine: `make demo`."""

from sdmad.commands.demo import demo
from sdmad.runtime.cli import run_command

if __name__ == "__main__":
    run_command(demo)

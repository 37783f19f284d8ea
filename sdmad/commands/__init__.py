"""The command line: one file for each command, and `app` with all of them as `sdmad`.

The functions import what they need when they run, so that `--help` does not load PyTorch.
"""

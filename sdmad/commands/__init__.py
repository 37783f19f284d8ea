"""The command line: one file for each command, and `app`, which is `sdmad` itself.

The functions import what they need when they run: `--help` answers without loading PyTorch.
"""

"""Scoring of whole archives: plan, skip, stream, commit, verify.

`plan` cuts the archive into work units and finds those that are done; `pipeline` streams the rest
through the detector with Ray Data; `ledger` gathers score rows until a unit is whole; `tables`
writes it. The existence of `scores/part-<unit>.parquet` is the only record of what is done.
"""

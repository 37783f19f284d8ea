"""Scoring of whole archives with Ray Data.

`plan` cuts the archive into work units and finds the finished ones. `pipeline` streams the others
through the detector. `ledger` collects score rows until a unit is complete, `tables` writes it,
`run` drives all of this, and `verify` checks the result. A unit is finished when
`scores/part-<unit>.parquet` exists; there is no other record of progress.
"""

"""SD-MAD as pure tensors: no files, no Ray.

`model` has the model and its decision rule, `learner` fits both to a support. Their parts are
`adapter` (Shift Adapters), `losses`, `selection` (automatic sign selection), `probe` (patch probe)
and `calibration`.
"""

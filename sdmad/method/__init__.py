"""SD-MAD as pure tensors: no files, no Ray.

`adapter` (Shift Adapters), `losses`, `selection` (automatic sign selection), `probe` (patch probe)
and `calibration` are the parts; `model` joins them into one model and one decision rule; `learner`
fits both from a support.
"""

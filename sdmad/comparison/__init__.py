"""Comparison of methods on the same supports.

`config` says which methods and supports, `cell` fits and measures one method on one support, `run`
does all of them on Ray, `scores` keeps the scores of test images, `bootstrap` resamples seeds and
test patients, `summary` compares methods in pairs, `pages` and `charts` show the results.
"""

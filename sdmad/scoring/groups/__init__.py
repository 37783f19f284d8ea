"""Scores by group of images: by patient, by study, or by any column of a table.

`pooling` says how the scores of images become one score, `table` reads which image is in which
group, and `run` streams the tables of a scoring run and writes one row for each group.
"""

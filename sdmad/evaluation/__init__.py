"""Evaluation of score tables: `measure` joins them with labels and computes the protocols, `run` is
a whole evaluation from tables to report."""

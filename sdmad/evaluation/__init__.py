"""Evaluation of score tables: `measure` joins them with labels and computes the `protocols`;
`audit` and `remarks` examine the signs behind the findings."""

"""The static HTML report of an evaluation: one page, no network, no scripts."""

"""The static HTML report of an evaluation: one page without network access or scripts."""

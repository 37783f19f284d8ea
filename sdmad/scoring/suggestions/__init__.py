"""What to label next: which images of a scoring run are asked, and why.

`candidates` streams the score tables and keeps what could be asked, `choice` chooses among them,
and `run` joins both with labels and activations.
"""

"""The probability from which a category is a finding."""

FINDING_THRESHOLD = 0.5
"""A category is a finding when its probability is above this, without a decision file."""

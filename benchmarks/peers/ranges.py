"""The median and range of several turns, as the benchmarks print them."""

import statistics


def ranged(values: list[float], digits: int = 2) -> str:
    """The median, with the range in parentheses."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

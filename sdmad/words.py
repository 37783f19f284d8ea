"""What messages say often: numbers with nouns, durations, the version of this code."""

from importlib.metadata import PackageNotFoundError, version


def counted(number: int, noun: str) -> str:
    """As in "1 image", "0 images" and "12,288 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """As in "14 s", "7 min", "3.5 h" and "12 days"."""
    for size, unit in ((48 * 3600, "days"), (5400, "h"), (120, "min")):
        if seconds >= size:
            value = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{value:.1f} h" if unit == "h" else f"{value:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def code_version() -> str:
    try:
        return version("sdmad")
    except PackageNotFoundError:
        return "unknown"

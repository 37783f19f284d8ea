"""The templates of all pages, with their filters."""

from pathlib import Path

import jinja2
import numpy as np

from sdmad.words import counted

HERE = Path(__file__).parent


def templates() -> jinja2.Environment:
    """The HTML files beside this one; an unknown name in one of them is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: "-" if np.isnan(value) else f"{100 * value:.1f}"
    environment.filters["whole"] = lambda value: "-" if np.isnan(value) else f"{100 * value:.0f}"
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = "{:,}".format
    environment.filters["counted"] = counted
    environment.filters["score"] = lambda value: "-" if np.isnan(value) else f"{value:.2f}"
    return environment

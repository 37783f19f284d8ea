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
    environment.filters["percent"] = lambda value: fixed(100 * value, 1)
    environment.filters["whole"] = lambda value: fixed(100 * value, 0)
    environment.filters["fixed"] = fixed
    environment.filters["signed"] = lambda value, digits: fixed(value, digits, "+")
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = "{:,}".format
    environment.filters["counted"] = counted
    return environment


def fixed(value: float, digits: int, sign: str = "") -> str:
    """A number with that many decimals, never -0; a dash for NaN. With `sign` "+" it has a sign."""
    return "-" if np.isnan(value) else f"{value:{sign}z.{digits}f}"

"""Text that others wrote, made safe to print."""

SENTENCE_LIMIT = 600


def one_line(text: str) -> str:
    """One printable line of bounded length, from text that others wrote."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SENTENCE_LIMIT else f"{line[:SENTENCE_LIMIT]} ..."

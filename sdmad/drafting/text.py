"""Clean untrusted text for messages and comments."""

SENTENCE_LIMIT = 600


def one_line(text: str) -> str:
    """One printable line of at most `SENTENCE_LIMIT` characters; longer text ends in "..."."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SENTENCE_LIMIT else f"{line[:SENTENCE_LIMIT]} ..."

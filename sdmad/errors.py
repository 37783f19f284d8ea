"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """The input is wrong. The message says what, where, and what to do.

    Commands print it as one line, without a traceback, and exit with code 2.
    """

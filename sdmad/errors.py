"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Something in the input is wrong: the message says what, where, and what to do.

    Jobs print it as one sentence and exit with code 2; no traceback.
    """

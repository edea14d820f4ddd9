"""The one exception that speaks to the user."""


class UserError(ValueError):
    """A mistake the user can mend: bad file, row, flag or target.

    The message is one or a few plain sentences naming the file, row or flag and the way out.
    Command-line programs print it without a traceback and exit with status 2.
    """

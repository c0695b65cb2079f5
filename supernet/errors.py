"""The one exception that means: the input was wrong, and here is what to do."""


class UserError(Exception):
    """Bad input. The message is one line: what was expected, what came, what to do.

    The command line tools print it and exit with code 2; every other exception keeps its traceback.
    """

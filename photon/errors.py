"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input from outside: a file, a line, a key or a question.

    The message names what is wrong and where (file, line, key and value), and then the way out.
    Command-line entry points print it as one line and leave with exit code 1.
    """

"""The one exception that a user is meant to read, and help with a misspelt word."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside: a file, a line, a key or a question.

    The message names what is wrong and where (file, line, key and value), and then the way out.
    Command-line entry points print it as one line and leave with exit code 1.
    """


def did_you_mean(word: object, legal: Iterable[str]) -> str:
    """The end of a message about `word`: the nearest legal word, or a short list of all."""
    legal = list(legal)
    if close := difflib.get_close_matches(str(word), legal, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; legal: {', '.join(legal)}" if 0 < len(legal) <= 12 else ""

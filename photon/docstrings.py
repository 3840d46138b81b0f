"""What docstrings say of arguments, for the help of commands and the pages of settings."""

import inspect
import re
import sys
from collections.abc import Callable


def arguments(target: Callable) -> dict[str, str]:
    """What is said of each argument of a class or function.

    Of a class by its docstring and those of its bases, and where they say "see `X`" by that of X;
    of a dataclass also by the comments beside its fields.
    """
    found: dict[str, str] = {}
    for kind in target.__mro__[-2::-1] if inspect.isclass(target) else [target]:
        doc = f"{inspect.cleandoc(kind.__doc__ or '')}\n"
        block = re.split(r"^(?:Args|Attributes):\n", doc, flags=re.M)[1:]
        entry = r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)"
        for names, text in re.findall(entry, block[0].split("\n\n")[0] if block else "", re.M):
            said = " ".join(text.split())
            other = re.fullmatch(r"see `(\w+)`\.?", said)
            there = vars(sys.modules[kind.__module__]).get(other[1]) if other else None
            if there is not None:
                found |= {n: s for n, s in arguments(there).items() if n in names.split(", ")}
            elif not other:
                found |= dict.fromkeys(names.split(", "), said)
        if "__dataclass_fields__" in vars(kind):
            beside = re.findall(r"^    (\w+): [^#\n]*# (.*)$", inspect.getsource(kind), re.M)
            found |= dict(beside)
    return found

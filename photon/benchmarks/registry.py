"""All benchmarks by name: what the files of this package define, without a list to keep."""

from __future__ import annotations

import importlib
import pkgutil

import photon.benchmarks
from photon.benchmarks.benchmark import Benchmark
from photon.errors import InputError, did_you_mean


def benchmarks() -> dict[str, type[Benchmark]]:
    """{facts.name: class} of every subclass of `Benchmark` in a file of the package."""
    found: dict[str, type[Benchmark]] = {}
    for file in pkgutil.iter_modules(photon.benchmarks.__path__):
        module = importlib.import_module(f"photon.benchmarks.{file.name}")
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, Benchmark) and "facts" in vars(one):
                if found.setdefault(one.facts.name, one) is not one:
                    raise InputError(f"{one.facts.name}: two benchmarks have this name")
    return found


def find_benchmark(name: str, key: str = "dataset") -> type[Benchmark]:
    """A benchmark by name. Raises InputError for an unknown one; `key` is where it was given."""
    found = benchmarks()
    if name not in found:
        hint = did_you_mean(name, found)
        raise InputError(f"{key} {name}: there is no such benchmark{hint}")
    return found[name]

"""Do something once another package has been imported, without importing it now."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_imported(module: str, ours: str, function: str) -> None:
    """Call `function` of our module `ours` as soon as `module` has been imported, or now."""
    if module in sys.modules:
        getattr(importlib.import_module(ours), function)()
    else:
        sys.meta_path.insert(0, _Waiting(module, ours, function))


class _Waiting:
    """A finder that lets the others find `module`, and adds a call after its code has run."""

    def __init__(self, module: str, ours: str, function: str):
        self.module, self.ours, self.function = module, ours, function

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(loaded: ModuleType) -> None:
            execute(loaded)
            getattr(importlib.import_module(self.ours), self.function)()

        spec.loader.exec_module = exec_module
        return spec

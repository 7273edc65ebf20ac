"""Names that a package hands on without importing their modules before somebody asks for them.

A command's --help is to answer in a second, which PyTorch alone takes longer to import than.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def hand_on(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562) whose names lie in other modules.

    Args:
        package: its `__name__`.
        modules: module of every name that it hands on.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})

"""Lazy attributes of packages: their modules are imported when somebody first asks for them.

So a command's --help answers within a second, which importing PyTorch alone would exceed.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def hand_on(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562) whose names lie in other modules.

    Args:
        package: its `__name__`.
        modules: the module that defines each name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})


def offer(host: str, name: str, module: str) -> None:
    """Give another package an attribute of ours, without importing that package or our module now.

    `DiffusionPipeline.from_pretrained` looks for the class that a folder names among the attributes of diffusers.

    Args:
        host: the other package, such as "diffusers"; it has the attribute from its import on.
        name: the attribute's name, in both packages.
        module: our module that defines the attribute; it is imported when somebody asks for that.
    """
    if host in sys.modules:
        _extend(sys.modules[host], name, module)
    else:
        sys.meta_path.insert(0, _Offer(host, name, module))


def _extend(package: ModuleType, name: str, module: str) -> None:
    class Extended(type(package)):
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                return getattr(import_module(module), name)
            if hasattr(super(), "__getattr__"):
                return super().__getattr__(wanted)
            raise AttributeError(f"module {package.__name__!r} has no attribute {wanted!r}")

    package.__class__ = Extended


class _Offer(MetaPathFinder):
    """Extends a package right after its import; it finds nothing itself."""

    def __init__(self, host: str, name: str, module: str):
        self.host, self.name, self.module = host, name, module
        self._looking = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec that the other finders give, whose loader then also extends the package."""
        if fullname != self.host or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._extending(spec.loader.exec_module)
        return spec

    def _extending(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            execute(module)
            _extend(sys.modules[self.host], self.name, self.module)  # diffusers puts another module in its own place
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        return exec_module

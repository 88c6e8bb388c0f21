"""Stand-ins for packages that a trainer's modules import, and that are not installed here.

Only what is named at import is stood in for: a module gives an empty class for any name.  Whatever
a flow really uses of an absent package fails loudly, or is given to ``install``.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class _Meta(type):
    """A class whose attributes are such classes, too, that can be called on to decorate."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(f"{cls.__name__}.{name}")


class _Nothing(metaclass=_Meta):
    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *given: Any, **_: Any) -> Any:
        """As a decorator it leaves alone what it decorates."""
        return given[0] if len(given) == 1 and callable(given[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


def _nothing(name: str) -> type:
    return _Meta(name, (_Nothing,), {})


class _Module(types.ModuleType):
    """A package that is not there: any name of it is an empty class."""

    __version__ = "0.0.0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _nothing(name)
        setattr(self, name, made)
        return made


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last, and stands in for these packages where nobody finds them."""

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)
        self.names: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = name.partition(".")[0]
        if top not in self._packages:
            return None
        self.names.add(top)
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install(*packages: str, given: Mapping[str, Mapping[str, Any]] = {}) -> Absent:
    """Stand in for what is absent.  ``given``: names of a module that a flow does use."""
    absent = Absent(packages)
    sys.meta_path.append(absent)
    for module, names in given.items():
        found = importlib.import_module(module)
        for name, value in names.items():
            setattr(found, name, value)
    return absent


def lacking(module: str, *names: str) -> set[str]:
    """Stand in for names that an older release of an installed package lacks; which those are."""
    found = importlib.import_module(module)
    missing = {name for name in names if not hasattr(found, name)}
    for name in missing:
        setattr(found, name, _nothing(name))
    return {f"{module}.{name}" for name in missing}


def server_args(names: Iterable[str]) -> type:
    """SGLang's ServerArgs, as far as trainers look at it: which fields there are."""
    fields = [(name, object, dataclasses.field(default=None)) for name in names]
    return dataclasses.make_dataclass("ServerArgs", fields)

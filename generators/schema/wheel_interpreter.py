"""SGLang's own argument parser out of a wheel, without torch and without importing the wheel.

It runs only those top-level statements of a wheel's modules that somebody asks for: a name is
defined when it is first used, together with the names that its statement needs.  The standard
library and the packages in ``_REAL`` are themselves; every other package is a ``Stub``.  Nothing
of it is visible to the rest of the process, so that many versions can be open at a time.

Wheels are code from outside: a definition runs when it is needed, with no more rights than any
dependency has.  It is for generating schemas and for tests, never for the operator.
"""

import __future__

import ast
import builtins
import importlib
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

_REAL = frozenset({"msgspec", "orjson", "typing_extensions"})
# Modules whose statements depend on their order: they run from top to bottom.
_WHOLE = frozenset({"sglang.srt.environ"})


class Stub:
    """Stands in for whatever is not there: false, empty, and anything may be done with it."""

    def __init__(self, name: str = "stub") -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Stub(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As a decorator it changes nothing.
        if len(args) == 1 and not kwargs and isinstance(args[0], (type, types.FunctionType)):
            return args[0]
        return Stub(self.__name__)

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return ()

    def __getitem__(self, key: Any) -> Any:
        return Stub(self.__name__)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __contains__(self, item: Any) -> bool:
        return False

    def _itself(self, *_: Any) -> Any:
        return self

    def _no(self, *_: Any) -> bool:
        return False

    __or__ = __ror__ = __add__ = __radd__ = __sub__ = __mul__ = __truediv__ = __and__ = _itself
    __enter__ = _itself
    __lt__ = __le__ = __gt__ = __ge__ = __exit__ = _no


class _Torch(Stub):
    """torch, as far as somebody reads its numbers."""

    __version__ = "2.9.0"
    version = types.SimpleNamespace(cuda="12.9", hip=None)

    def __init__(self) -> None:
        super().__init__("torch")


class _Namespace(dict[str, Any]):
    """The globals of one module; a name that is missing is defined by its own statement."""

    def __init__(self, interpreter: "WheelInterpreter", name: str, source: str) -> None:
        super().__init__(
            __name__=interpreter.mangled(name), __package__=name.rpartition(".")[0], __file__=name
        )
        self["__builtins__"] = {**vars(builtins), "__import__": interpreter.importer(name)}
        self._tree = ast.parse(source)
        self._statements = _bound(self._tree.body)
        self._defining: set[str] = set()
        self._ran: set[ast.stmt] = set()
        self._flags = _future_flags(self._tree)

    def __missing__(self, name: str) -> Any:
        if name not in self._statements or name in self._defining:
            raise KeyError(name)
        self._define(name)
        return dict.__getitem__(self, name)

    def _define(self, name: str) -> None:
        self._defining.add(name)
        try:
            for statement in self._statements[name]:
                if statement in self._ran:
                    continue
                self._ran.add(statement)
                for needed in _names_run_at_once(statement):
                    if needed not in self:
                        self.get_or_none(needed)
                self._run(statement)
        finally:
            self._defining.discard(name)
        self.setdefault(name, Stub(name))

    def run_whole(self) -> None:
        """Run all statements in their order."""
        for statement in self._tree.body:
            self._ran.add(statement)
            self._run(statement)

    def get_or_none(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            return None

    def _run(self, statement: ast.stmt) -> None:
        module = ast.Module(body=[statement], type_ignores=[])
        code = compile(module, self["__file__"], "exec", flags=self._flags, dont_inherit=True)
        try:
            exec(code, self)
        except Exception:  # what cannot run without its packages is a stub
            for name in _targets(statement):
                self.setdefault(name, Stub(name))


class _Module:
    """One module of a interpreter, as far as it has been needed."""

    def __init__(self, interpreter: "WheelInterpreter", name: str, namespace: _Namespace) -> None:
        object.__setattr__(self, "_parts", (interpreter, name, namespace))

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return object.__getattribute__(self, "_parts")[2]

    def __getattr__(self, attribute: str) -> Any:
        interpreter, name, namespace = object.__getattribute__(self, "_parts")
        if (value := namespace.get(attribute)) is not None:
            return value
        try:
            return namespace[attribute]
        except KeyError:
            return interpreter.child(name, attribute)


class WheelInterpreter:
    """The modules of one SGLang wheel: ``.get("sglang.srt.environ", "envs")``."""

    def __init__(self, wheel: zipfile.ZipFile, version: str) -> None:
        self._wheel = wheel
        self._files = frozenset(wheel.namelist())
        self._modules: dict[str, _Module] = {}
        self._sources: dict[str, str | None] = {}
        self.version = version

    def mangled(self, name: str) -> str:
        """A module's name in ``sys.modules``, where typing and msgspec look up annotations."""
        return f"{name}@{self.version}"

    def source(self, name: str) -> str | None:
        """The text of a module, or nothing if the wheel has none of that name.

        Kept: modules are asked for thousands of times, and unpacking one takes milliseconds.
        """
        if name not in self._sources:
            self._sources[name] = self._read(name)
        return self._sources[name]

    def _read(self, name: str) -> str | None:
        path = name.replace(".", "/")
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate in self._files:
                return self._wheel.read(candidate).decode()
        return None

    def module(self, name: str) -> Any:
        """A module of the wheel; one that it does not have is a stub."""
        if name not in self._modules:
            source = self.source(name)
            if source is None:
                return Stub(name)
            module = _Module(self, name, _Namespace(self, name, source))
            self._modules[name] = module
            sys.modules[self.mangled(name)] = module  # type: ignore[assignment]
            if name in _WHOLE:
                module.__dict__.run_whole()
        return self._modules[name]

    def get(self, module: str, name: str) -> Any:
        """A name of a module."""
        return getattr(self.module(module), name)

    def child(self, package: str, name: str) -> Any:
        """A submodule that is asked for as an attribute."""
        full = f"{package}.{name}"
        if self.source(full) is None:
            if name.startswith("__"):
                raise AttributeError(name)
            return Stub(name)
        return self.module(full)

    def importer(self, importing: str) -> Any:
        """``__import__`` for the code of one module."""
        package = self._package(importing)

        def import_(
            name: str,
            namespace: Mapping[str, Any] | None = None,
            local: Mapping[str, Any] | None = None,
            wanted: Any = (),
            level: int = 0,
        ) -> Any:
            if level:
                base = package.rsplit(".", level - 1)[0]
                name = f"{base}.{name}" if name else base
            top = name.partition(".")[0]
            if top == "sglang":
                return self.module(name if wanted else top)
            if top in sys.stdlib_module_names or top in _REAL:
                return importlib.__import__(name, None, None, wanted, 0)
            return _Torch() if name == "torch" else Stub(name)

        return import_

    def _package(self, name: str) -> str:
        is_package = f"{name.replace('.', '/')}/__init__.py" in self._files
        return name if is_package else name.rpartition(".")[0]


def _bound(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """The top-level statements that bind each name, in order."""
    bound: dict[str, list[ast.stmt]] = {}
    for statement in body:
        for name in _targets(statement):
            bound.setdefault(name, []).append(statement)
    return bound


def _targets(statement: ast.stmt) -> set[str]:
    """The names that a statement binds in its module."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Import() | ast.ImportFrom():
            return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name() as name))):
            return {name.id}  # CHOICES.append(...)
    return set(_stored(statement))


def _stored(node: ast.AST) -> Iterator[str]:
    """Names that are assigned, and those whose attributes or items are; no inner scopes."""
    match node:
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.Attribute(ctx=ast.Store(), value=ast.Name() as owner):
            yield owner.id
        case ast.Subscript(ctx=ast.Store(), value=ast.Name() as owner):
            yield owner.id
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp() | ast.Lambda():
            return
    for child in ast.iter_child_nodes(node):
        yield from _targets(child) if isinstance(child, ast.stmt) else _stored(child)


def _names_run_at_once(statement: ast.AST) -> set[str]:
    """The names that a statement reads when it runs: not those in the bodies of functions."""
    names: set[str] = set()
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]
        else:
            waiting += ast.iter_child_nodes(node)
    return names


def _future_flags(tree: ast.Module) -> int:
    """The compiler flag of ``from __future__ import annotations``, where a module has it."""
    postponed = any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body
    )
    return __future__.annotations.compiler_flag if postponed else 0

"""What a `_target_` accepts, read from its source without importing it.

A configuration names the classes it builds, and their constructors say what they take. Reading that from the syntax
tree makes the signature the schema: nothing is written twice, and a mistyped key is found in milliseconds, before
torch is imported. It works for third-party targets too (`torch.optim.Adam`, `pytorch_lightning.Trainer`).
"""

import ast
import builtins
import collections.abc
import importlib.util
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trilab import ranges
from trilab.config.third_party import ANNOTATIONS


class UnknownTarget(Exception):
    """No class or function stands at a `_target_`; the text says which part of the path was not found."""

    def __init__(self, target: str, missing: str, siblings: list[str]) -> None:
        super().__init__(target, missing)
        self.target, self.missing, self.siblings = target, missing, siblings


@dataclass(frozen=True)
class Signature:
    """Parameters by name, each with its evaluated annotation (`Any` where it says nothing that can be checked)."""

    parameters: Mapping[str, Any]
    defaults: frozenset[str]
    accepts_any_key: bool


@cache
def signature(target: str) -> Signature:
    """The signature of the class or function at a dotted path.

    Raises:
        UnknownTarget: nothing stands there.
    """
    module, name = _locate(target)
    definition, module = _definition(module, name, target)
    if isinstance(definition, ast.ClassDef):
        found = _constructor(definition, module, target)
        if found is None:
            return Signature({}, frozenset(), accepts_any_key=_has_unknown_bases(definition))
        function, module = found
        if isinstance(function, ast.ClassDef):
            return _dataclass_signature(function)
        return _function_signature(function, target, skip_first=True)
    return _function_signature(definition, target, skip_first=False)


@cache
def has_method(target: str, name: str) -> bool:
    """Whether the class at a dotted path, or one that it derives from, defines a method."""
    try:
        definition, module = _definition(*_locate(target), target)
    except UnknownTarget:
        return False
    if not isinstance(definition, ast.ClassDef):
        return False
    if any(isinstance(node, ast.FunctionDef) and node.name == name for node in definition.body):
        return True
    bases = [base.id for base in definition.bases if isinstance(base, ast.Name)]
    return any(has_method(f"{module.name}.{base}", name) for base in bases)


def place_of(target: str) -> tuple[str, bool]:
    """The module in which what a dotted path names is defined, and whether it is a class.

    Raises:
        UnknownTarget: nothing stands there.
    """
    definition, module = _definition(*_locate(target), target)
    return module.name, isinstance(definition, ast.ClassDef)


def _function_signature(function: ast.FunctionDef, target: str, skip_first: bool) -> Signature:
    positional = [*function.args.posonlyargs, *function.args.args][1 if skip_first else 0 :]
    known = ANNOTATIONS.get(target, {})
    arguments = [*positional, *function.args.kwonlyargs]
    parameters = {a.arg: known.get(a.arg, _evaluate(a.annotation)) for a in arguments}
    with_default = {a.arg for a in positional[len(positional) - len(function.args.defaults) :]}
    with_default |= {
        a.arg for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d is not None
    }
    return Signature(parameters, frozenset(with_default), accepts_any_key=function.args.kwarg is not None)


def _dataclass_signature(definition: ast.ClassDef) -> Signature:
    fields = [n for n in definition.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    parameters = {f.target.id: _evaluate(f.annotation) for f in fields if isinstance(f.target, ast.Name)}
    defaults = {f.target.id for f in fields if f.value is not None and isinstance(f.target, ast.Name)}
    return Signature(parameters, frozenset(defaults), accepts_any_key=False)


# Annotations


class _Names(dict[str, Any]):
    """Names that annotations may use; any other stands for a type that cannot be checked here."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        return Any


_NAMES = _Names({**vars(typing), **vars(collections.abc), **vars(ranges), "Path": Path})


def _evaluate(annotation: ast.expr | None) -> Any:
    if annotation is None:
        return Any
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).split(".")[-1] == "Callable":
        return Any  # what is called is built from a nested target, checked on its own
    try:
        return eval(compile(ast.Expression(annotation), "<annotation>", "eval"), {}, _NAMES)
    except (AttributeError, TypeError, NameError):
        return Any


# Source


@dataclass(frozen=True)
class _Module:
    path: Path
    name: str

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_module(name: str) -> _Module | None:
    """The module of that dotted name, found without importing any parent package."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    if not spec.submodule_search_locations:
        return _Module(Path(str(spec.origin)), top) if not rest and str(spec.origin).endswith(".py") else None
    for folder in spec.submodule_search_locations:
        path = Path(folder).joinpath(*rest)
        if (path / "__init__.py").is_file():
            return _Module(path / "__init__.py", name)
        if rest and path.with_name(f"{path.name}.py").is_file():
            return _Module(path.with_name(f"{path.name}.py"), name)
    return None


def _locate(target: str) -> tuple[_Module, str]:
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UnknownTarget(target, target, [])
    module = find_module(".".join(parts[:-1]))
    if module is None:
        for end in range(1, len(parts)):
            if find_module(".".join(parts[:end])) is None:
                parent = find_module(".".join(parts[: end - 1])) if end > 1 else None
                raise UnknownTarget(target, ".".join(parts[:end]), _submodules(parent) if parent else [])
    assert module is not None
    return module, parts[-1]


def _submodules(module: _Module) -> list[str]:
    if module.path.name != "__init__.py":
        return []
    folder = module.path.parent
    return sorted(
        {p.stem for p in folder.glob("*.py") if p.stem != "__init__"}
        | {p.parent.name for p in folder.glob("*/__init__.py")}
    )


def _definition(module: _Module, name: str, target: str) -> tuple[ast.ClassDef | ast.FunctionDef, _Module]:
    """Follows imports from module to module until the definition of a name is found."""
    for node in _statements(_tree(module.path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = find_module(_absolute(node, module))
                    if source is not None:
                        return _definition(source, alias.name, target)
    names = [n.name for n in _tree(module.path).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    raise UnknownTarget(target, target, [n for n in names if not n.startswith("_")])


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from node.body


def _absolute(node: ast.ImportFrom, module: _Module) -> str:
    if not node.level:
        return node.module or ""
    package = module.package.split(".")
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _constructor(
    definition: ast.ClassDef, module: _Module, target: str
) -> tuple[ast.FunctionDef | ast.ClassDef, _Module] | None:
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node, module
    if any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
        return definition, module
    for base in definition.bases:
        if isinstance(base, ast.Name):
            try:
                parent, where = _definition(module, base.id, target)
            except UnknownTarget:
                continue
            if isinstance(parent, ast.ClassDef) and (found := _constructor(parent, where, target)):
                return found
    return None


def _has_unknown_bases(definition: ast.ClassDef) -> bool:
    return any(ast.unparse(base) not in {"object", "Protocol", "ABC"} for base in definition.bases)

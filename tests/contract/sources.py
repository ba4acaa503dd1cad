"""Python sources, read without being imported: what a class has, and what a function takes."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Definition:
    """A class, a function or an assigned name of a module."""

    module: str
    node: ast.AST

    @property
    def name(self) -> str:
        return f"{self.module}.{getattr(self.node, 'name', '?')}"


@dataclass(frozen=True)
class Module:
    """A module itself."""

    name: str


@dataclass(frozen=True)
class Instance:
    """An object of a class."""

    cls: Definition


@dataclass(frozen=True)
class Container:
    """A list, a dictionary by its values, or a tuple, which has several."""

    elements: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Method:
    """A function of a class, which an object is given to."""

    function: Definition


@dataclass(frozen=True)
class Unknown:
    """Something that is there; what it is cannot be told from the sources."""

    name: str


Value: TypeAlias = Definition | Module | Instance | Container | Method | Unknown
Values: TypeAlias = tuple[Value, ...]
"""What an expression may be: one of these. Nothing if it is none that is looked at."""


@cache
def _tree(path: Path) -> ast.Module:
    """A file's, which all `Sources` share: nobody changes it."""
    return ast.parse(path.read_text(encoding="utf-8"))


class Sources:
    """The modules of a package, by their names.

    Args:
        folder: where the package lies.
        holds: where an attribute's annotation names an interface: what it really is, by "Class.name".
    """

    def __init__(self, folder: Path, package: str, holds: dict[str, str] | None = None):
        self.folder, self.package, self.holds = folder, package, holds or {}
        self.parsed, self.find = cache(self._parse), cache(self._find)

    def _parse(self, module: str) -> ast.Module | None:
        if module.partition(".")[0] != self.package:
            return None
        place = self.folder.joinpath(*module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return _tree(path)
        return ast.Module([], []) if place.is_dir() else None

    def _find(self, module: str, name: str) -> Definition | Module | None:
        """What a module calls by a name, wherever it is defined."""
        tree = self.parsed(module)
        for node in _statements(tree.body) if tree else ():
            if name in _defined(node):
                return Definition(module, node)
            if isinstance(node, ast.ImportFrom):
                origin = self._absolute(module, node)
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        if (origin, alias.name) == (module, name):
                            break  # a module beside this one
                        return self.find(origin, alias.name)
                    if alias.name == "*" and (found := self.find(origin, name)):
                        return found
        inner = f"{module}.{name}"
        return Module(inner) if self.parsed(inner) else None

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = (self.folder.joinpath(*module.split(".")) / "__init__.py").is_file()
        parts = module.split(".")[: None if is_package else -1]
        parts = parts[: len(parts) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])

    # Classes.

    def lineage(self, cls: Definition) -> Iterator[Definition | ast.expr]:
        """A class and those it inherits from; those of other packages as they are written."""
        yield cls
        assert isinstance(cls.node, ast.ClassDef)
        for base in cls.node.bases:
            found = self._named(cls.module, base)
            if isinstance(found, Definition) and isinstance(found.node, ast.ClassDef):
                yield from self.lineage(found)
            else:
                yield base

    def _named(self, module: str, expression: ast.expr) -> Definition | Module | None:
        if isinstance(expression, ast.Subscript):  # Generic[...]
            expression = expression.value
        if isinstance(expression, ast.Name):
            return self.find(module, expression.id)
        if isinstance(expression, ast.Attribute):
            owner = self._named(module, expression.value)
            if isinstance(owner, Module):
                return self.find(owner.name, expression.attr)
        return None

    def of_module(self, module: str, name: str) -> Values | None:
        """What a module's attribute is; None if there is none."""
        found = self.find(module, name)
        if found is None:
            return None
        if isinstance(found, Definition) and isinstance(found.node, ast.Assign | ast.AnnAssign):
            return self._type_of(found, found.node, None) or (Unknown(f"{module}.{name}"),)
        return (found,)

    def member(self, cls: Definition, name: str) -> Values | None:
        """What an object's attribute is; None if there is none."""
        unknown = (Unknown(f"{cls.name}.{name}"),)
        held = self.holds.get(f"{cls.node.name}.{name}")
        for owner in self.lineage(cls):
            if not isinstance(owner, Definition):
                if _has_attribute(owner, name):
                    return unknown
                continue
            for node, method in _members(owner.node, name):
                if held:
                    module, _, real = held.rpartition(".")
                    found = self.find(module, real)
                    assert isinstance(found, Definition), f"there is no {held}"
                    return (Instance(found),)
                return self._type_of(owner, node, method) or unknown
        return None

    def _type_of(self, owner: Definition, node: ast.AST, method: ast.AST | None) -> Values:
        if isinstance(node, FUNCTIONS):
            function = Definition(owner.module, node)
            names = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any("property" in name for name in names):
                return self.returned(function)
            return (function,) if "staticmethod" in names else (Method(function),)
        if isinstance(node, ast.AnnAssign):
            return self.annotated(owner.module, node.annotation)
        value = node.value  # of an assignment
        if isinstance(value, ast.Call):
            return self._made(owner.module, value)
        if isinstance(value, ast.Name) and method is not None:
            for argument in _arguments(method):
                if argument.arg == value.id and argument.annotation:
                    return self.annotated(owner.module, argument.annotation)
        return ()

    def _made(self, module: str, call: ast.Call) -> Values:
        """What a call of a class, or of a function of a class, gives."""
        found = self._named(module, call.func)
        if isinstance(found, Definition):
            if isinstance(found.node, ast.ClassDef):
                return (Instance(found),)
            if isinstance(found.node, FUNCTIONS):
                return self.returned(found)
        if isinstance(call.func, ast.Attribute):
            cls = self._named(module, call.func.value)
            if isinstance(cls, Definition) and isinstance(cls.node, ast.ClassDef):
                for value in self.member(cls, call.func.attr) or ():
                    if isinstance(value, Method):
                        return self.returned(value.function)
        return ()

    # Annotations.

    def returned(self, function: Definition) -> Values:
        returns = function.node.returns
        return self.annotated(function.module, returns) if returns else ()

    def annotated(self, module: str, annotation: ast.expr) -> Values:
        """What an annotation allows, of what these sources define."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            return self.annotated(module, ast.parse(annotation.value, mode="eval").body)
        if isinstance(annotation, ast.BinOp):
            return self.annotated(module, annotation.left) + self.annotated(
                module, annotation.right
            )
        if isinstance(annotation, ast.Subscript):
            inner = annotation.slice
            last = inner.elts[-1] if isinstance(inner, ast.Tuple) else inner
            if ast.unparse(annotation.value) in ("Optional", "Union"):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return tuple(v for part in parts for v in self.annotated(module, part))
            found = self._named(module, annotation.value)
            if found is None:  # list[...], dict[...], Sequence[...]
                return (Container((self.annotated(module, last),)),)
            annotation = annotation.value
        found = self._named(module, annotation)
        if not isinstance(found, Definition):
            return ()
        if isinstance(found.node, ast.ClassDef):
            return (Instance(found),)
        if isinstance(found.node, ast.Assign):  # an alias
            return self.annotated(found.module, found.node.value)
        return ()

    def literals(self, module: str, annotation: ast.expr) -> set[object]:
        """Values that an annotation's `Literal` allows; none if it has no such."""
        found: set[object] = set()
        for node in ast.walk(annotation):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                found |= {n.value for n in ast.walk(node.slice) if isinstance(n, ast.Constant)}
            elif isinstance(node, ast.Name):
                alias = self.find(module, node.id)
                if isinstance(alias, Definition) and isinstance(alias.node, ast.Assign):
                    found |= self.literals(alias.module, alias.node.value)
        return found

    def constants(self, module: str, name: str) -> set[object]:
        """The constants that a name is assigned, in whatever container."""
        definition = self.find(module, name)
        assert isinstance(definition, Definition), f"{module} has no {name}"
        return {n.value for n in ast.walk(definition.node.value) if isinstance(n, ast.Constant)}

    # Signatures.

    def signature(self, callee: Definition | Method) -> inspect.Signature:
        """What a call may give; annotations are (module, expression)."""
        if isinstance(callee, Method):
            return _signature(callee.function, bound=True)
        if isinstance(callee.node, FUNCTIONS):
            return _signature(callee, bound=False)
        for method in self.member(callee, "__init__") or ():
            if isinstance(method, Method):
                return self._with_forwarded(method.function, _signature(method.function, True))
        return inspect.Signature(self._fields(callee))

    def _fields(self, cls: Definition) -> list[inspect.Parameter]:
        """Of a dataclass, in which all may be left out."""
        fields = {}
        for owner in reversed([o for o in self.lineage(cls) if isinstance(o, Definition)]):
            for node in owner.node.body:
                if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(
                    node.annotation
                ):
                    name = ast.unparse(node.target)
                    fields[name] = _parameter(name, owner.module, node.annotation, True)
        return list(fields.values())

    def _with_forwarded(
        self, function: Definition, signature: inspect.Signature
    ) -> inspect.Signature:
        """Where a function gives its `**kwargs` to a class: what that takes, in their place."""
        parameters = list(signature.parameters.values())
        if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
            return signature
        for node in ast.walk(function.node):
            if not isinstance(node, ast.Call):
                continue
            forwarded = {ast.unparse(k.value) for k in node.keywords if k.arg is None}
            target = self._named(function.module, node.func)
            if parameters[-1].name in forwarded and isinstance(target, Definition):
                own = signature.parameters
                given = {k.arg for k in node.keywords}
                more = [
                    p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                    for name, p in self.signature(target).parameters.items()
                    if name not in own and name not in given
                ]
                return signature.replace(parameters=[*parameters[:-1], *more])
        return signature


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module, also under `if` and `try`."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
                yield from _statements(getattr(node, inner, []))


def _defined(node: ast.AST) -> set[str]:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _members(cls: ast.ClassDef, name: str) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Where a class defines an attribute, and in which method; what tells the type comes first."""
    in_methods = []
    for node in cls.body:
        if name in _defined(node):
            yield node, None
        if isinstance(node, FUNCTIONS):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign | ast.AnnAssign):
                    targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
                    if f"self.{name}" in [ast.unparse(target) for target in targets]:
                        in_methods.append((inner, node))
    yield from sorted(in_methods, key=lambda pair: not isinstance(pair[0], ast.AnnAssign))


def _has_attribute(base: ast.expr, name: str) -> bool:
    """Whether a class of an installed package has it: torch's modules."""
    module, _, cls = ast.unparse(base).rpartition(".")
    if module not in ("nn", "torch.nn"):
        return False
    return hasattr(getattr(importlib.import_module("torch.nn"), cls), name)


def _arguments(function: ast.AST) -> list[ast.arg]:
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _parameter(
    name: str, module: str, annotation: ast.expr | None, optional: bool, kind: str = "either"
) -> inspect.Parameter:
    kinds = inspect.Parameter
    return inspect.Parameter(
        name,
        {
            "only": kinds.KEYWORD_ONLY, "either": kinds.POSITIONAL_OR_KEYWORD,
            "positional": kinds.POSITIONAL_ONLY, "*": kinds.VAR_POSITIONAL, "**": kinds.VAR_KEYWORD,
        }[kind],
        default=None if optional else kinds.empty,
        annotation=(module, annotation) if annotation is not None else kinds.empty,
    )  # fmt: skip


def _signature(function: Definition, bound: bool) -> inspect.Signature:
    arguments = function.node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = [
        _parameter(
            argument.arg, function.module, argument.annotation, place >= required,
            "positional" if place < len(arguments.posonlyargs) else "either",
        )
        for place, argument in enumerate(positional)
    ][bound:]  # fmt: skip
    if arguments.vararg:
        parameters.append(_parameter(arguments.vararg.arg, function.module, None, False, "*"))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        optional = default is not None
        parameters.append(
            _parameter(argument.arg, function.module, argument.annotation, optional, "only")
        )
    if arguments.kwarg:
        parameters.append(_parameter(arguments.kwarg.arg, function.module, None, False, "**"))
    return inspect.Signature(parameters)

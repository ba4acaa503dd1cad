"""What megaprune's own source does with another package, read from it: nothing is listed here.

A module's imports of the package, annotations of parameters, and what they lead to are followed
through the code: each name must be defined there, each call must fit the signature, each constant
must be one that is allowed.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sources import (
    Container,
    Definition,
    Instance,
    Method,
    Module,
    Sources,
    Unknown,
    Value,
    Values,
)

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """A call into the package: of what, with which constants."""

    place: str
    callee: str
    constants: dict[str, object]


class Uses:
    """Reads modules; `calls` are those it met, `problems` what does not fit, with its place.

    Args:
        sources: of the package.
        code: texts of megaprune's modules, by their names (`own_code`).
    """

    def __init__(self, sources: Sources, code: dict[str, str]):
        self.sources = sources
        self.trees = {name: ast.parse(text) for name, text in code.items()}
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.attributes: set[str] = set()
        for name, tree in self.trees.items():
            _Scope(self, name).read(tree.body)


def own_code(package: str) -> dict[str, str]:
    """The texts of megaprune's modules that name a package, by the modules' names."""
    texts = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in sorted((ROOT / "megaprune").rglob("*.py"))
    }
    return {name: text for name, text in texts.items() if package in text}


class _Scope:
    """A module, a class or a function: what its names may be.

    Args:
        names: those of what is around it.
        own: attributes of the class that its methods have as `self`.
    """

    def __init__(
        self, uses: Uses, module: str, names: dict[str, Values] | None = None,
        own: dict[str, Values] | None = None,
    ):  # fmt: skip
        self.uses, self.module, self.sources = uses, module, uses.sources
        self.names, self.own = dict(names or {}), {} if own is None else own

    def problem(self, node: ast.AST, text: str) -> None:
        self.uses.problems.append(f"{self.module}:{node.lineno}: {text}")

    # Statements.

    def read(self, body: list[ast.stmt]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            self.function(node)
        elif isinstance(node, ast.ClassDef):
            _Scope(self.uses, self.module, self.names).read(node.body)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imported(node)
        elif isinstance(node, ast.Assign):
            values = self.value(node.value)
            for target in node.targets:
                self.assign(target, values, node.value)
        elif isinstance(node, ast.AnnAssign):
            values = self.value(node.value) if node.value else ()
            self.assign(node.target, self.annotated(node.annotation) or values)
        elif isinstance(node, ast.For):
            self.assign(node.target, _elements(self.value(node.iter)))
            self.read(node.body + node.orelse)
        else:
            for field, child in ast.iter_fields(node):
                for inner in child if isinstance(child, list) else [child]:
                    if isinstance(inner, ast.stmt):
                        self.statement(inner)
                    elif isinstance(inner, ast.ExceptHandler | ast.withitem | ast.match_case):
                        self.statement(inner)  # type: ignore[arg-type]  # its parts are read alike
                    elif isinstance(inner, ast.expr) and field != "annotation":
                        self.value(inner)

    def function(self, node: ast.FunctionDef) -> None:
        scope = _Scope(self.uses, self.module, self.names, self.own)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            values = self.annotated(argument.annotation) if argument.annotation else ()
            scope.names[argument.arg] = values
        scope.read(node.body)

    def annotated(self, annotation: ast.expr) -> Values:
        """What an annotation in megaprune names, of the package."""
        if isinstance(annotation, ast.Name):
            return tuple(
                Instance(v) for v in self.names.get(annotation.id, ()) if isinstance(v, Definition)
            )
        if isinstance(annotation, ast.Subscript):
            return (Container((self.annotated(annotation.slice),)),)
        return ()

    def imported(self, node: ast.Import | ast.ImportFrom) -> None:
        package = self.sources.package
        for alias in node.names:
            if isinstance(node, ast.Import):
                name, root = alias.name, alias.name.partition(".")[0]
                if root != package:
                    continue
                found = Module(name) if self.sources.parsed(name) else None
                self.names[alias.asname or root] = (Module(name if alias.asname else root),)
            else:
                if (node.module or "").partition(".")[0] != package or node.level:
                    continue
                name = f"{node.module}.{alias.name}"
                found = self.sources.find(node.module or "", alias.name)
                self.names[alias.asname or alias.name] = (found,) if found else ()
            if found is None:
                self.problem(node, f"there is no {name}")

    def assign(self, target: ast.expr, values: Values, value: ast.expr | None = None) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = values
        elif isinstance(target, ast.Tuple | ast.List):
            for place, inner in enumerate(target.elts):
                self.assign(inner, _at(values, place))
        elif isinstance(target, ast.Attribute):
            if ast.unparse(target.value) == "self":
                self.own[target.attr] = values
                return
            replaced = self.value(target)
            if isinstance(value, ast.Lambda):
                self.check_replaced(target, replaced, value)
        elif isinstance(target, ast.expr):
            self.value(target)

    def check_replaced(self, target: ast.Attribute, values: Values, value: ast.Lambda) -> None:
        """A function in another's place is called with the other's arguments."""
        for replaced in values:
            function = replaced.function if isinstance(replaced, Method) else replaced
            if not isinstance(function, Definition) or value.args.vararg:
                continue
            expected = [a.arg for a in function.node.args.args]
            given = [a.arg for a in value.args.args]
            if len(expected) != len(given):
                self.problem(target, f"{function.name} takes {expected}, and not {given}")

    # Expressions.

    def value(self, node: ast.expr) -> Values:
        """What an expression may be, of the package; its parts are read."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, ())
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) == "self":
                return self.own.get(node.attr, ())
            return self.attribute(node, self.value(node.value))
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Subscript):
            self.value(node.slice)
            return _elements(self.value(node.value))
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            return self.comprehension(node)
        if isinstance(node, ast.Lambda):
            return _Scope(self.uses, self.module, self.names, self.own).value(node.body)
        values: Values = ()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                values += self.value(child)
        return values if isinstance(node, ast.IfExp | ast.BoolOp | ast.NamedExpr) else ()

    def comprehension(self, node: ast.expr) -> Values:
        scope = _Scope(self.uses, self.module, self.names, self.own)
        for generator in node.generators:
            scope.assign(generator.target, _elements(scope.value(generator.iter)))
            for condition in generator.ifs:
                scope.value(condition)
        if isinstance(node, ast.DictComp):
            scope.value(node.key)
            return (Container((scope.value(node.value),)),)
        return (Container((scope.value(node.elt),)),)

    def attribute(self, node: ast.Attribute, owners: Values) -> Values:
        owners = tuple(o for o in owners if not isinstance(o, Container | Method))
        found = [(owner, self.attribute_of(owner, node.attr)) for owner in owners]
        if owners and all(values is None for _, values in found):
            names = " or ".join(sorted({_name(owner) for owner in owners}))
            unknown = any(isinstance(owner, Unknown) for owner in owners)
            why = "; its type cannot be told: say it in HOLDS" if unknown else ""
            self.problem(node, f"{names} has no {node.attr}{why}")
        self.uses.attributes |= {f"{_name(o)}.{node.attr}" for o, v in found if v is not None}
        return tuple(value for _, values in found for value in values or ())

    def attribute_of(self, owner: Value, name: str) -> Values | None:
        if isinstance(owner, Module):
            return self.sources.of_module(owner.name, name)
        if isinstance(owner, Instance):
            return self.sources.member(owner.cls, name)
        if isinstance(owner, Definition) and isinstance(owner.node, ast.ClassDef):
            return self.sources.member(owner, name)
        return None

    def call(self, node: ast.Call) -> Values:
        function = ast.unparse(node.func)
        arguments = [self.value(argument) for argument in node.args]
        for keyword in node.keywords:
            self.value(keyword.value)
        if function.endswith("import_module") and isinstance(node.args[0], ast.Constant):
            name = str(node.args[0].value)
            if name.partition(".")[0] != self.sources.package:
                return ()
            if self.sources.parsed(name) is None:
                self.problem(node, f"there is no {name}")
            return (Module(name),)
        if function == "zip":
            return (Container(tuple(_elements(values) for values in arguments)),)
        if function in ("list", "tuple", "sorted", "reversed", "iter"):
            return arguments[0] if arguments else ()
        results: Values = ()
        for callee in self.value(node.func):
            results += self.called(node, callee)
        return results

    def called(self, node: ast.Call, callee: Value) -> Values:
        if isinstance(callee, Method):
            definition = callee.function
        elif isinstance(callee, Definition):
            definition = callee
        else:
            return ()
        signature = self.sources.signature(callee)
        given = [(k.arg, k.value) for k in node.keywords if k.arg is not None]
        for spread in (k.value for k in node.keywords if k.arg is None):
            keys = list(self.keys(spread))
            if not keys:
                self.problem(node, f"what {ast.unparse(spread)} has cannot be told")
            given += keys
        try:
            bound = signature.bind(*node.args, **dict(given))
        except TypeError as error:
            self.problem(node, f"{definition.name}: {error}")
        else:
            self.check_constants(node, definition, signature, bound.arguments)
        if isinstance(definition.node, ast.ClassDef):
            return (Instance(definition),)
        return self.sources.returned(definition)

    def check_constants(
        self, node: ast.Call, callee: Definition, signature: inspect.Signature, arguments: dict
    ) -> None:
        constants = {}
        for name, value in arguments.items():
            if not isinstance(value, ast.expr):
                continue
            try:
                constants[name] = ast.literal_eval(value)
            except ValueError:
                continue  # computed
            annotation = signature.parameters[name].annotation
            allowed = (
                set()
                if annotation is inspect.Parameter.empty
                else self.sources.literals(*annotation)
            )
            if isinstance(constants[name], str) and allowed and constants[name] not in allowed:
                text = f"{callee.name}: {name}={constants[name]!r} is none of {sorted(map(str, allowed))}"
                self.problem(node, text)
        place = f"{self.module}:{node.lineno}"
        self.uses.calls.append(Call(place, callee.name, constants))

    def keys(self, node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
        """What `**function(...)` gives: the keys that this function of megaprune writes."""
        name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        owner = ast.unparse(node.func).rpartition(".")[0] if isinstance(node, ast.Call) else ""
        for module, tree in self.uses.trees.items():
            if module.rpartition(".")[2] != (owner or self.module.rpartition(".")[2]):
                continue
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef) and function.name == name:
                    yield from _keys(function)


def _keys(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    yield str(target.slice.value), node.value


def _elements(values: Values) -> Values:
    """What an element of a container may be; a tuple of several stays whole."""
    inner: Values = ()
    for value in values:
        if isinstance(value, Container):
            inner += (value,) if len(value.elements) > 1 else value.elements[0]
        elif isinstance(value, Unknown):
            inner += (value,)
    return inner


def _at(values: Values, place: int) -> Values:
    inner: Values = ()
    for value in values:
        if isinstance(value, Container):
            several = len(value.elements) > 1
            inner += value.elements[place if several else 0]
    return inner


def _name(value: Value) -> str:
    if isinstance(value, Module | Unknown):
        return value.name
    if isinstance(value, Instance):
        return value.cls.name
    assert isinstance(value, Definition)
    return value.name

"""The AWS calls that Python source makes, found without running it.

A call is an attribute with the name of an operation, of a service for which the same source makes a client. It need not
be called there: ``run_in_thread(client.run_task)`` counts. So nothing is missed that names its operation in the source;
what could be missed is an error: a client of a service that cannot be read, a name that two services share, a resource
of boto3, which calls operations by other names.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

from tools.permissions.operations import TRANSFERS, methods, paginators, waiters

#: What makes a client of boto3, botocore or aiobotocore, by the last part of its name.
MAKERS: Final = frozenset({"client", "create_client"})
#: The argument of those that names the service, where it is not the first.
_SERVICE_KEYWORDS: Final = ("service_name",)
_BY_NAME: Final = {"get_paginator": paginators, "get_waiter": waiters}


class UnreadableSourceError(Exception):
    """The source does not say which service or operation it calls; the message says where."""


@dataclass(frozen=True, order=True)
class SourceCall:
    """An AWS call in some source.

    :param service: The service, by botocore's name.
    :param method: The client's method, or S3's transfer method, such as ``upload_file``.
    :param module: The module that makes it.
    :param function: The function or method that makes it; empty for the module itself.
    """

    service: str
    method: str
    module: str
    function: str

    def __str__(self) -> str:
        return f"{self.service}:{self.method} in {self.module}{f'.{self.function}' if self.function else ''}"


@dataclass(frozen=True)
class Module:
    """A module's source."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    @cached_property
    def pieces(self) -> Mapping[str, list[ast.AST]]:
        """The nodes of the module by the outermost function or method that they are in; the rest under no name."""
        found: dict[str, list[ast.AST]] = {"": []}

        def collect(node: ast.AST, within: tuple[str, ...], inside: bool) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inside:
                    name = ".".join((*within, child.name))
                    found.setdefault(name, []).extend(
                        piece for part in (child.args, *child.body) for piece in ast.walk(part)
                    )
                    found[""] += [piece for part in child.decorator_list for piece in ast.walk(part)]
                elif isinstance(child, ast.ClassDef) and not inside:
                    collect(child, (*within, child.name), inside)
                else:
                    found[".".join(within) if inside else ""].append(child)
                    collect(child, within, inside)

        collect(self.tree, (), False)
        return found

    def imports(self) -> Iterator[str]:
        """The modules that it may import, wherever it says so."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                name = ".".join(part for part in ((base if node.level else ""), node.module or "") if part)
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names)

    def constants(self) -> Iterator[tuple[str, str]]:
        """The strings that classes give names to, such as the members of an enumeration."""
        for node in self.tree.body:
            for statement in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                    for target in statement.targets:
                        if isinstance(target, ast.Name) and isinstance(statement.value.value, str):
                            yield f"{node.name}.{target.id}", statement.value.value  # type: ignore[attr-defined]


_Functions: TypeAlias = Sequence[tuple[Module, str, Sequence[ast.AST]]]


def find_module(name: str) -> Module | None:
    """A module by its name, found without running any of it; None where there is none, or it is no Python."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    if not rest:
        return Module(name, path)
    folder = path.parent.joinpath(*rest[:-1])
    for candidate in (folder / f"{rest[-1]}.py", folder / rest[-1] / "__init__.py"):
        if candidate.is_file():
            return Module(name, candidate)
    return None


def modules(starts: Iterable[str], *, within: Collection[str]) -> list[Module]:
    """Some modules and what they import, as far as that is in these packages.

    :param starts: Names of the modules.
    :param within: Packages or modules, by their names, that are followed; their ``__init__.py`` only if it is named.
    """
    found: dict[str, Module] = {}
    waiting = list(starts)
    for name in waiting:
        module = find_module(name)
        if module is None:
            raise UnreadableSourceError(f"there is no module {name}; it is named as a source of AWS calls")
        if name in found:
            continue
        found[name] = module
        for imported in module.imports():
            followed = any(f"{imported}.".startswith(f"{package}.") for package in within)
            target = find_module(imported) if followed else None
            if target is not None and (target.path.name != "__init__.py" or imported in within):
                waiting.append(imported)
    return list(found.values())


def source_calls(
    sources: Sequence[Module], *, entries: Collection[str] | None = None, services: Collection[str] = ()
) -> set[SourceCall]:
    """The AWS calls of some modules.

    :param sources: The modules, all of a piece: a client may be made in one and used in another.
    :param entries: Functions, by their bare names, from which to start: only what they may reach counts. None: all of
        it.
    :param services: Services whose clients are handed to this source. Default: those that it makes clients of.
    :raises UnreadableSourceError: A service that cannot be read, an operation that several services have.
    """
    functions: _Functions = [(module, name, nodes) for module in sources for name, nodes in module.pieces.items()]
    if entries is not None:
        functions = _reached(functions, entries)
    constants = {name: value for module in sources for name, value in module.constants()}
    named = set(services) | _services(functions, constants)
    known = {service: methods(service) for service in named}
    found = set()
    for module, function, nodes in functions:
        for node in nodes:
            _refuse_resource(module, node)
            for method in _methods_of(node, named):
                having = [service for service in sorted(named) if method in known[service]]
                if len(having) > 1:
                    where = f"{module.path}:{getattr(node, 'lineno', 0)}"
                    raise UnreadableSourceError(
                        f"{where}: {method} may be of {' or '.join(having)}; teach source_calls.py to tell them apart"
                    )
                found |= {SourceCall(service, method, module.name, function) for service in having}
    return found


def _reached(functions: _Functions, entries: Collection[str]) -> _Functions:
    """What may be reached from some functions: whatever has a name that they name, wherever it is."""
    by_name: dict[str, list[int]] = {}
    for index, (_, name, _) in enumerate(functions):
        by_name.setdefault(name.rpartition(".")[2], []).append(index)
    if missing := sorted(entry for entry in entries if entry not in by_name):
        raise UnreadableSourceError(
            f"no function {', '.join(missing)} in {', '.join({m.name for m, _, _ in functions})}"
        )
    reached: set[int] = set()
    waiting = [index for entry in entries for index in by_name[entry]]
    for index in waiting:
        if index in reached:
            continue
        reached.add(index)
        for node in functions[index][2]:
            waiting += by_name.get(named, []) if (named := _name(node)) else []
    return [functions[index] for index in sorted(reached)]


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _services(functions: _Functions, constants: Mapping[str, str]) -> set[str]:
    """The services of which clients are made. A function that hands its own argument on makes clients too."""
    makers: dict[str, str | None] = dict.fromkeys(MAKERS)
    seen: set[str] = set()
    while True:
        before = len(makers)
        seen = set()
        for module, function, nodes in functions:
            for node in nodes:
                for argument in _service_arguments(node, makers):
                    for value in _values(argument):
                        text = value.value if isinstance(value, ast.Constant) else constants.get(ast.unparse(value))
                        if isinstance(text, str):
                            seen.add(text)
                        elif isinstance(value, ast.Name) and value.id in _parameters(nodes):
                            makers.setdefault(function.rpartition(".")[2], value.id)
                        else:
                            raise UnreadableSourceError(
                                f"{module.path}:{getattr(node, 'lineno', 0)}: a client of a service that cannot be "
                                f"read: {ast.unparse(argument)}"
                            )
        if len(makers) == before:
            return seen


def _service_arguments(node: ast.AST, makers: Mapping[str, str | None]) -> Iterator[ast.expr]:
    """What names the service, if this makes a client: itself, or by handing what makes one to another."""
    if not isinstance(node, ast.Call):
        return
    positional = list(node.args)
    name = _name(node.func)
    if name not in makers:
        # A variable that is called client is no maker; boto3.client is.
        handed = [
            index
            for index, value in enumerate(positional)
            if _name(value) in (makers if isinstance(value, ast.Attribute) else makers.keys() - MAKERS)
        ]
        if not handed:
            return
        name = _name(positional[handed[0]])
        positional = positional[handed[0] + 1 :]
    parameter = makers[name or ""]
    for keyword in node.keywords:
        if keyword.arg and keyword.arg in (*_SERVICE_KEYWORDS, parameter):
            yield keyword.value
            return
    if positional:
        yield positional[0]
    elif any(keyword.arg is None for keyword in node.keywords):
        yield node  # nobody can tell what it is in there


def _refuse_resource(module: Module, node: ast.AST) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "resource":
        raise UnreadableSourceError(
            f"{module.path}:{node.lineno}: a resource of boto3, whose calls cannot be read: {ast.unparse(node)}"
        )


def _values(argument: ast.expr) -> Iterator[ast.expr]:
    """The argument without what only serves the type checker: ``cast(Any, service)``."""
    if isinstance(argument, ast.Call) and _name(argument.func) == "cast":
        yield from _values(argument.args[1])
    else:
        yield argument


def _parameters(nodes: Sequence[ast.AST]) -> set[str]:
    return {node.arg for node in nodes if isinstance(node, ast.arg)}


def _methods_of(node: ast.AST, services: Collection[str]) -> Iterator[str]:
    """The methods of clients that a node stands for; a paginator and a waiter stand for what they call."""
    if isinstance(node, ast.Attribute):
        if node.attr not in TRANSFERS or "s3" in services:
            yield node.attr
    elif isinstance(node, ast.Call) and (table := _BY_NAME.get(_name(node.func) or "")):
        argument = node.args[0] if node.args else None
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            raise UnreadableSourceError(f"a paginator or waiter that cannot be read: {ast.unparse(node)}")
        called = {method for service in services for method in table(service).get(argument.value, ())}
        if not called:
            raise UnreadableSourceError(f"no service has it: {ast.unparse(node)}")
        yield from called

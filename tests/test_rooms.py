"""Who may import whom: the picture of the house, held against every import statement of the code.

A package imports itself, what stands beside it here, and nothing else of ours. Within the worker and the gateway the
rooms are layers: one imports those before it, never one after it. Imports inside functions count as well, but where a
row says "when asked": then only those are allowed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "gateway", "worker", "tools")

MAY_IMPORT = {
    "shared": {"shared"},
    "gateway": {"gateway", "shared"},
    "worker": {"worker", "shared"},
    "tools.service": {"tools.service", "shared", "gateway.__main__", "worker.__main__"},  # commands of fast-vc
    "tools.client": {"tools.client", "shared"},
}
WHEN_ASKED = {"tools.service": {"gateway", "worker"}}  # the command starts what it is asked for
FOREIGN = {
    "shared": {"torch", "torchaudio", "aiohttp"},
    "gateway": {"torch", "torchaudio", "safetensors", "huggingface_hub"},
    "worker": {"aiohttp", "uvloop"},
    "tools.service": {"torch", "torchaudio", "aiohttp"},
}

WORKER_LAYERS = (
    {"geometry", "timings", "voices", "pitch", "engine", "buckets", "loudness", "precision", "recordings", "assets"},
    {"models"},
    {"engines"},
    {"streaming"},
    {"serving"},
    {"factory", "check", "host", "main", "probe", "__main__"},
)


@dataclass(frozen=True)
class Import:
    """One import of a module of ours or of a library."""

    importer: str
    imported: str
    in_function: bool
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[Import]:
    """Those of one module that run; ``if TYPE_CHECKING:`` is for readers."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), False)]
    while pending:
        node, inner = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, inner, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write absolute imports"
            assert node.module is not None
            for alias in node.names:
                yield Import(name, f"{node.module}.{alias.name}", inner, node.lineno)
        elif not isinstance(node, ast.expr):  # which hold none
            inner = inner or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            pending += ((child, inner) for child in ast.iter_child_nodes(node))


@cache
def every_import() -> tuple[Import, ...]:
    return tuple(one for package in PACKAGES for name, path in modules(package) for one in imports(name, path))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_stands_beside_it(package: str) -> None:
    mine = [one for one in every_import() if within(one.importer, package)]
    assert mine
    wrong = [
        str(one)
        for one in mine
        if ours(one.imported)
        and not any(within(one.imported, allowed) for allowed in MAY_IMPORT[package])
        and not (one.in_function and any(within(one.imported, asked) for asked in WHEN_ASKED.get(package, set())))
    ]
    assert not wrong


@pytest.mark.parametrize("package", FOREIGN)
def test_a_package_does_without_the_heavy_libraries_of_the_others(package: str) -> None:
    wrong = [
        str(one)
        for one in every_import()
        if within(one.importer, package) and one.imported.partition(".")[0] in FOREIGN[package]
    ]
    assert not wrong


def layer(module: str, layers: tuple[set[str], ...]) -> int:
    room = [*module.split("."), ""][1]
    return next((number for number, rooms in enumerate(layers) if room in rooms), -1)


@pytest.mark.parametrize(("package", "layers"), [("worker", WORKER_LAYERS)])
def test_layers_import_downwards_only(package: str, layers: tuple[set[str], ...]) -> None:
    named = {name for name, _ in modules(package) if name != package}
    assert {name for name in named if layer(name, layers) < 0} == set(), "a module without a place among the layers"
    wrong = [
        str(one)
        for one in every_import()
        if within(one.importer, package)
        and within(one.imported, package)
        and layer(one.imported, layers) > layer(one.importer, layers) >= 0
    ]
    assert not wrong

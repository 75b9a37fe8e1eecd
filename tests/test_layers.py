"""Imports go downward only, and heavy dependencies have one home each."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

import ben_secure

PACKAGE = pathlib.Path(ben_secure.__file__).parent

# From the bottom up; a module may import from lower layers, and within its own folder.
LAYERS = [
    ["errors"],
    ["_system", "bands", "equality", "limits"],
    ["labels", "view"],
    ["metadata"],
    ["patches"],
    ["signing"],
    ["pages", "pickles", "tensors"],
    ["nomenclature", "tables", "values"],
    ["store"],
    ["batches"],
    ["audit", "compat", "encode", "stats", "torch"],
    ["demo", "publish"],
    ["cli", "__main__"],
]

# The drop-in interface has load and loads as methods of the patch classes, which are below what reads values.
UPWARD = {("patches.access", "values")}

HOMES = {
    "lmdb": {"store.writer", "store.change.in_place", "audit.structure._verify_worker", "demo"},
    "pickle": {"pickles.unpickler", "pickles._prefix", "patches.access"},
    "pickletools": {"pickles._steps", "audit"},
    "typer": {"cli"},
    "rich": {"cli", "audit", "demo"},
    "cryptography": {"signing"},
    "securesystemslib": {"signing"},
    "fickling": {"audit.opinion._fickling_worker"},
    "tifffile": {"encode.geotiff"},
    "imagecodecs": {"encode.geotiff"},
    "pyarrow": {"labels.tables"},
    "PIL": {"view.quicklook"},
    "matplotlib": {"stats"},
    "distributed": {"audit.run.cluster"},
    "dask": {"audit.run.cluster"},
    "torch": {"torch"},
    "safetensors": set(),
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below ``ben_secure``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text())
    return found


def layer(name: str) -> int:
    """Height of a module; the package itself only names what is below it."""
    for height, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes):
            return height
    raise AssertionError(f"{name} is in no layer: add it to LAYERS")


def imports(tree: ast.AST) -> list[str]:
    """Dotted names that a module imports at run time."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            found += imports(node)
    return found


def own(names: list[str]) -> set[str]:
    """Of imported names, the modules of this package."""
    known = modules()
    return {n for name in names if name.startswith("ben_secure.") and (n := name.removeprefix("ben_secure.")) in known}


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_imports_go_downward(name):
    """A module imports only what is below it or beside it in its own folder."""
    for imported in own(imports(modules()[name])):
        beside = "." in name + imported and name.split(".")[0] == imported.split(".")[0]
        lower = layer(imported) < layer(name) or (layer(imported) == layer(name) and "." not in name + imported)
        assert beside or lower or (name, imported) in UPWARD, f"{name} imports {imported}"


@pytest.mark.parametrize("dependency", HOMES)
def test_dependencies_have_one_home(dependency):
    """Only the named modules import a heavy or dangerous dependency."""
    users = {name for name, tree in modules().items() for i in imports(tree) if i.split(".")[0] == dependency}
    for user in users:
        assert any(user == home or user.startswith(home + ".") for home in HOMES[dependency]), user


def test_import_is_light():
    """``import ben_secure`` pulls in nothing heavier than the standard library; the patch classes add numpy only.

    Nor does the process that will run fickling pull in what it does not need: its memory is bounded.
    """
    for statement, allowed in (
        ("import ben_secure", set()),
        ("import ben_secure.audit.opinion._fickling_worker", set()),
        ("from ben_secure import loads", {"numpy"}),
    ):
        code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
        loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
        heavy = {*HOMES, "numpy"} - {"pickle", "pickletools"}
        assert loaded & heavy <= allowed
        assert "ben_secure" in loaded


def test_no_assert_in_the_package():
    """``python -O`` removes assert statements, so no check may be one."""
    for name, tree in modules().items():
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], name


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


def test_modules_fit_in_a_readers_head():
    """Modules have a docstring and at most 400 lines; functions at most 40 below theirs, but for one flat loop."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        tree = ast.parse(text)
        assert ast.get_docstring(tree) or not tree.body, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert body_lines(node) <= (60 if node.name == "run" and path.parent.name == "pickles" else 40), (
                    f"{path}:{node.lineno}"
                )

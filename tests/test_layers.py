"""Imports go downward only, and heavy dependencies have one home each."""

import ast
import functools
import graphlib
import itertools
import pathlib
import subprocess
import sys

import pytest

import ben_secure

PACKAGE = pathlib.Path(ben_secure.__file__).parent

# The rooms from the bottom up, and the modules within a room. What stands in one row does not import each other.
# "patches" is the face of that room, which alone may look up; "patches.*" are the modules in it.
ORDER: dict[str, list[str]] = {
    "": [
        "errors",
        "_system bands equality limits",
        "labels metadata remote view",
        "patches.*",
        "signing",
        "pages pickles tensors",
        "values",
        "patches",
        "store",
        "batches",
        "audit compat encode stats torch",
        "announce",
        "demo publish",
        "cli",
        "__main__",
    ],
    "labels": ["_sheet nomenclature", "_columnar _delimited _parquet", "tables"],
    "patches": ["layout", "band", "buffer", "parts", "patch scaling", "standard"],
    "signing": [
        "_keyfiles _kinds footer hashing",
        "_record_list statement",
        "publisher",
        "_mac_keys",
        "keys tags",
        "envelope",
        "manifest",
        "policy",
    ],
    "signing.publisher": ["schemes", "forms keys", "devices files"],
    "pickles": ["names", "records", "machine", "arrays", "legacy", "templates", "loader", "unpickler"],
    "tensors": ["header", "note", "reading", "writing"],
    "pages": ["_meta _nodes data_file", "_census", "_snapshot", "_accounts", "reader"],
    "store": ["_environment _names _released", "reader", "pairs writer", "change"],
    "store.change": ["differences digests tag", "rewrite", "append convert in_place sign verify"],
    "batches": ["indexing labels presets resampling samples splits", "masks pixels", "patch_names", "arrays"],
    "encode": ["lzw", "directory unpack", "geotiff position", "labels", "folders rows tally", "patch", "plan", "run"],
    "stats": ["sums", "tally", "results", "plot run"],
    "audit": ["rules", "findings", "judge structure", "opinion", "report run"],
    "audit.judge": ["formats patch_names programs remarks", "globals", "scan"],
    "audit.opinion": ["_fickling_worker opinions"],
    "audit.structure": ["_verify_worker checks identity"],
    "audit.run": [
        "_wire discover ranges",
        "_worker partial_results",
        "state workers",
        "judging",
        "shards",
        "runner",
        "cluster remote",
    ],
    "audit.report": ["_elements disassembly json_report", "explain sarif_report table_report", "html_report"],
    "torch": ["memory sampler", "dataset", "ahead convert", "loader"],
    "demo": ["hostile", "tour"],
    "cli": [
        "_usage",
        "_common _describe _options _passphrase _speed _tensors",
        "_signing",
        "_release",
        "commands",
        "_app",
    ],
    "cli.commands": ["append audit convert demo encode inspect_value keygen publish show sign stats verify"],
    "_system": ["causes exposure interrupts locks naming optional processors", "appear forks", "files"],
    "view": ["gridded quicklook", "cards"],
    "announce": ["release", "croissant page"],
    "remote": ["addresses answers", "_bucket _web", "range_file"],
}

HOMES = {
    "lmdb": {"store._environment", "store.writer", "store.change.in_place", "audit.structure._verify_worker"},
    "pickle": {"pickles.unpickler", "patches.patch"},
    "pickletools": {"pickles.machine", "audit"},
    "click": {"cli"},
    "rich": {"cli", "audit", "demo"},
    "cryptography": {"signing"},
    "securesystemslib": {"signing.publisher.devices"},
    "fickling": {"audit.opinion._fickling_worker"},
    "tifffile": set(),
    "xarray": {"view.gridded", "patches.patch"},
    "imagecodecs": {"encode.unpack"},
    "pyarrow": {"labels._columnar"},
    "PIL": {"view.quicklook"},
    "matplotlib": {"stats"},
    "distributed": {"audit.run.cluster"},
    "dask": {"audit.run.cluster"},
    "torch": {"torch"},
    "fsspec": {"remote"},
    "aiohttp": {"remote._web", "remote._bucket"},
    "s3fs": {"remote._bucket"},
    "safetensors": set(),
    "blake3": {"signing.hashing"},
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


@functools.cache
def imports(tree: ast.Module) -> list[tuple[str, ...]]:
    """The imports of a module anywhere, also for type checking: for each name the dotted names that it may mean."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.module or "") for alias in node.names]
    return found


@functools.cache
def own(name: str) -> set[str]:
    """The modules of this package that a module imports; not the package itself."""
    known = {f"ben_secure.{module}": module for module in modules() if module}
    return {known[dotted] for names in imports(modules()[name]) if (dotted := next(filter(known.get, names), None))}


def rows(room: str) -> dict[str, int]:
    """Height of each child of a room."""
    return {child: height for height, row in enumerate(ORDER[room]) for child in row.split()}


def child_of(room: str, name: str) -> str:
    """Which child of a room a module is, or is in."""
    if not room and name.startswith("patches."):
        return "patches.*"
    return name[len(room) :].lstrip(".").split(".")[0]


def room_of_both(a: str, b: str) -> str:
    """The innermost room that two modules share."""
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a.split("."), b.split("."), strict=False))
    return ".".join(part for part, _ in shared)


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_imports_go_downward(name):
    """A module imports only lower modules, and an ``__init__`` imports only its own package."""
    for imported in own(name):
        room = room_of_both(name, imported)
        if imported.startswith(name + "."):
            continue
        if room == imported:  # its own room's face
            room = room.rpartition(".")[0]
        heights = rows(room)
        assert heights[child_of(room, imported)] < heights[child_of(room, name)], f"{name} imports {imported}"


def test_no_circles():
    """No module imports itself by way of others, imports for type checking and in functions counted."""
    graph = {name: own(name) for name in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_every_module_has_its_place():
    """The order names each module and room once and nothing else; a folder has at most a dozen modules."""
    children: dict[str, set[str]] = {}
    for name in set(modules()) - {""}:
        children.setdefault(name.rpartition(".")[0], set()).add(child_of(name.rpartition(".")[0], name))
    for room, found in children.items():
        named = [child for row in ORDER[room] for child in row.split() if child != "patches.*"]
        assert sorted(named) == sorted(found), room
        files = {file.name for file in PACKAGE.joinpath(*room.split(".")).glob("*.py")}
        assert len(files - {"__init__.py"}) <= 12, room


def test_no_module_is_named_after_another():
    """No module has the name of a standard module or a dependency, except ``ben_secure.torch``."""
    for name in set(modules()) - {"", "torch", "__main__"}:
        assert name.split(".")[-1] not in {*sys.stdlib_module_names, *HOMES}, name


@pytest.mark.parametrize("dependency", HOMES)
def test_dependencies_have_one_home(dependency):
    """Only the named modules import a heavy or dangerous dependency."""
    users = {name for name, tree in modules().items() for i in imports(tree) if i[0].split(".")[0] == dependency}
    for user in users:
        assert any(user == home or user.startswith(home + ".") for home in HOMES[dependency]), user


def test_import_is_light():
    """``import ben_secure`` pulls in nothing heavier than the standard library; the patch classes add numpy only.

    Nor does the process that will run fickling pull in what it does not need: its memory is bounded.
    """
    for statement, allowed in (
        ("import ben_secure", set()),
        ("import ben_secure.audit.opinion._fickling_worker", set()),
        ("from ben_secure import Verification", set()),
        ("from ben_secure.signing.envelope import sign_statement", {"cryptography"}),
        ("from ben_secure import loads", {"numpy"}),
        ("from ben_secure import PatchReader", {"numpy"}),
        ("from ben_secure.audit import Options", {"numpy"}),
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
    """Modules have a docstring and at most 400 lines; functions have at most 40 lines, except one flat loop."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        tree = ast.parse(text)
        assert ast.get_docstring(tree) or not tree.body, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                is_the_loop = node.name == "_run" and path.parent.name == "pickles"
                assert body_lines(node) <= (130 if is_the_loop else 40), f"{path}:{node.lineno}"

"""The reference of the site covers the public names."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import types

import pytest

import ben_secure
from support.documents import HAS_TORCH, PAGES, ROOT


def defined(module):
    """The names that a module gives a value itself."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def documented():
    """What the pages of the reference show, by identity: an object, or what a module lists or else defines."""
    for page in PAGES:
        for path in re.findall(r"^::: ([\w.]+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE):
            found = pkgutil.resolve_name(path)
            yield found
            if isinstance(found, types.ModuleType):
                names = getattr(found, "__all__", None) or defined(found)
                yield from (getattr(found, name) for name in names if not name.startswith("_"))


def test_every_public_name_is_in_the_reference():
    """Each name that a module lists in ``__all__`` is on a page of the reference."""
    if not HAS_TORCH:
        pytest.skip("torch is not installed")
    shown = {id(found) for found in documented()}
    public = []
    for file in pathlib.Path(ben_secure.__file__).parent.rglob("*.py"):
        if "\n__all__ = [" in file.read_text("utf-8"):
            parts = file.relative_to(pathlib.Path(ben_secure.__file__).parent.parent).with_suffix("").parts
            module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
            public += [f"{module.__name__}.{name}" for name in module.__all__]
    assert len(public) > 60
    assert [path for path in public if id(pkgutil.resolve_name(path)) not in shown] == []

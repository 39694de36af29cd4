"""The rules of the house, read from the syntax trees: who may import whom, what no file may hold.

Imports inside functions count like any other, but for the search for cycles, which is about what
happens when a module is loaded. Imports for type checkers only count for neither.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("exporter", "targets", "golden")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRAINERS = {"torch", "transformers", "sentence_transformers"}
VENDORS = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coremltools", "nncf"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}
FOUNDATION = (
    "exporter.program", "exporter.dialect", "exporter.options", "exporter.errors",
    "exporter.files", "exporter.names", "exporter.natives",
)  # fmt: skip


class Imports(ast.NodeVisitor):
    """Dotted names that a module imports: `loaded` with it, and `later`, inside a function."""

    def __init__(self, module: str) -> None:
        path = MODULES[module]
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.loaded: set[str] = set()
        self.later: set[str] = set()
        self._depth = 0
        self.visit(ast.parse(path.read_text("utf-8")))

    def visit_If(self, node: ast.If) -> None:
        if not ast.unparse(node.test).endswith("TYPE_CHECKING"):
            self.generic_visit(node)
            return
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*above, base]).rstrip(".")
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            # `from exporter import dialect` names a module, `from golden import Band` would not.
            self._add(whole if whole in MODULES else base)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(name.value)
        self.generic_visit(node)

    def _add(self, name: str) -> None:
        (self.later if self._depth else self.loaded).add(name)

    @property
    def all(self) -> set[str]:
        return self.loaded | self.later


@cache
def imports_of(module: str) -> Imports:
    return Imports(module)


def tops(module: str) -> set[str]:
    """The top-level packages that a module imports, sooner or later."""
    return {name.partition(".")[0] for name in imports_of(module).all}


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def inside(*packages: str) -> list[str]:
    return [module for module in MODULES if is_in(module, *packages)]


def ours(module: str) -> set[str]:
    """What a module imports of this project."""
    return {name for name in imports_of(module).all if is_in(name, *PACKAGES)}


def test_there_is_a_house_to_look_at() -> None:
    assert len(FILES) > 35
    assert {"exporter", "exporter.trace", "targets.openvino", "golden.make"} <= MODULES.keys()


def test_reader_of_imports_sees_every_kind() -> None:
    assert "exporter.trace" in imports_of("exporter.preparing").later
    assert "exporter.dialect" in imports_of("exporter.legality").loaded
    assert "torch" in imports_of("exporter.trace.capture").loaded
    assert "torch" in imports_of("golden.make").later
    assert "exporter.exporting" not in imports_of("exporter").all  # for type checkers only


# --- imports run one way


def test_golden_shares_no_code_with_what_it_checks() -> None:
    for module in inside("golden"):
        assert not tops(module) & {"exporter", "targets"}, module


def test_golden_loads_the_reference_only_where_goldens_are_made() -> None:
    for module in inside("golden"):
        assert not {name.partition(".")[0] for name in imports_of(module).loaded} & TRAINERS, module
        assert module == "golden.make" or not tops(module) & TRAINERS, module


def test_only_the_tracer_imports_torch() -> None:
    for module in inside("exporter", "targets"):
        assert is_in(module, "exporter.trace") or not tops(module) & TRAINERS, module


def test_exporter_imports_no_vendor_but_onnxruntime_in_one_room() -> None:
    for module in inside("exporter"):
        allowed = {"onnxruntime"} if module == "exporter.interpret" else set()
        assert tops(module) & VENDORS <= allowed, module


def test_exporter_finds_targets_by_name_only() -> None:
    for module in inside("exporter"):
        assert "targets" not in tops(module), module


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("exporter.trace", ("exporter.trace", "exporter.model", "exporter.tokens", *FOUNDATION)),
        ("exporter.passes", ("exporter.passes", *FOUNDATION)),
        (
            "targets",
            (
                "targets.base",
                "targets.pool",
                "exporter.passes",
                "exporter.onnxfile",
                "exporter.interpret",
                "exporter.emulate",
                *FOUNDATION,
            ),
        ),
    ],
)
def test_package_imports_nothing_above_it(package: str, allowed: tuple[str, ...]) -> None:
    for module in inside(package):
        # Of the other targets none: a target's own folder is the second part of its name.
        own = ".".join(module.split(".")[:2]) if package == "targets" else package
        above = {name for name in ours(module) if not is_in(name, own, *allowed)}
        assert not above, module


def test_target_imports_no_vendor_but_its_own() -> None:
    for module in inside("targets"):
        own = {{"coreml": "coremltools"}.get(name, name) for name in module.split(".")[1:2]}
        assert tops(module) & VENDORS <= own, module


@pytest.mark.parametrize(
    ("module", "below"),
    [
        ("exporter.errors", ()),
        ("exporter.files", ()),
        ("exporter.names", ()),
        ("exporter.natives", ()),
        ("exporter.exchange", ()),
        ("exporter.stages", ()),
        ("exporter.options", ("exporter.errors",)),
        ("exporter.dialect", ()),
        ("exporter.program", ("exporter.dialect", "exporter.errors")),
        ("exporter.legality", FOUNDATION),
        ("exporter.interpret", FOUNDATION),
        ("exporter.onnxfile", FOUNDATION),
    ],
)
def test_foundations_import_nothing_upward(module: str, below: tuple[str, ...]) -> None:
    assert ours(module) <= set(below)


def test_no_module_waits_for_itself_to_load() -> None:
    edges = {module: sorted(imports_of(module).loaded & MODULES.keys()) for module in MODULES}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            pytest.fail(" imports ".join((*trail[trail.index(module) :], module)))
        if module not in done:
            for wanted in edges[module]:
                walk(wanted, (*trail, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())


# --- the front door


@pytest.mark.parametrize(
    "before", ["", "import exporter.exporting", "import exporter.verifying, exporter.encoder"]
)
def test_public_names_are_functions(before: str) -> None:
    code = f"{before}\nfrom exporter import export, load, verify\n"
    code += "assert all(callable(f) for f in (export, load, verify)), (export, load, verify)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_takes_the_place_of_a_public_function() -> None:
    assert not {f"exporter.{name}" for name in ("export", "load", "verify")} & MODULES.keys()


# --- what every file owes


@pytest.mark.parametrize(
    "nowhere",
    [
        r"(?<![\w.])/(root|work|home|Users|mnt|tmp)\b",
        r"https?://|pypi\.org|pythonhosted|download\.pytorch\.org",
    ],
    ids=["place-of-a-machine", "package-mirror"],
)
def test_sources_name_no(nowhere: str) -> None:
    for path in FILES:
        assert not re.search(nowhere, path.read_text("utf-8")), path


def test_every_file_begins_with_a_docstring_and_stays_readable() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), path
        assert len(text.splitlines()) <= 400, path

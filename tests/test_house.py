"""The rules of the house, read from the syntax trees: who may import whom, what no file may hold.

Imports inside functions count like any other. Imports for type checkers only count for none.
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
PACKAGES = ("goldfold", "exporter", "targets", "golden")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRAINERS = {"torch", "transformers", "sentence_transformers"}
VENDORS = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coremltools", "nncf"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "goldfold" else ("goldfold", *parts))


MODULES = {module_of(path): path for path in FILES}
ROOMS = (
    "golden", "exporter", "golden.judging", "golden.proof", "exporter.system", "exporter.ir",
    "exporter.passes.rewriting", "exporter.passes", "exporter.frontend", "exporter.frontend.trace",
    "exporter.evaluate", "targets", "targets.coreml.lower", "targets.coreml",
    "targets.onnxruntime", "targets.openvino", "targets.tensorrt", "exporter.quantize",
    "exporter.diagnose", "exporter.artifact", "exporter.verification", "exporter.index",
    "exporter.report", "exporter.driver", "exporter.search", "exporter.cli", "",
)  # fmt: skip
"""Every folder, after all that it may import: docs/architecture.md says what lies in each."""


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
            # `from goldfold.exporter import ir` names a module, `… import __version__` does not.
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


def room_of(module: str) -> str:
    """The folder that a module lies in, as ROOMS names it; "" is the front door."""
    is_folder = MODULES[module].name == "__init__.py"
    return (module if is_folder else module.rpartition(".")[0])[len("goldfold.") :]


def tops(module: str) -> set[str]:
    """The top-level packages that a module imports, sooner or later."""
    return {name.partition(".")[0] for name in imports_of(module).all}


def inside(*rooms: str) -> list[str]:
    """The modules of some rooms and of those in them."""
    return [m for m in MODULES if any(f"{m}.".startswith(f"goldfold.{room}.") for room in rooms)]


def ours(module: str) -> set[str]:
    """The modules of this project that a module imports, sooner or later."""
    return imports_of(module).all & MODULES.keys() - {module}


def arrows() -> dict[tuple[str, str], list[str]]:
    """What imports what, of the rooms: pairs, each with the modules that do it."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in MODULES:
        for wanted in ours(module):
            if room_of(module) != room_of(wanted):
                pair = (room_of(module), room_of(wanted))
                found.setdefault(pair, []).append(f"{module} imports {wanted}")
    return found


def test_reader_of_imports_sees_every_kind() -> None:
    preparing = imports_of("goldfold.exporter.driver.preparing")
    assert "goldfold.exporter.frontend.trace" in preparing.later
    assert "goldfold.exporter.ir.dialect" in imports_of("goldfold.exporter.ir.legality").loaded
    assert "torch" in imports_of("goldfold.exporter.frontend.trace.capture").loaded
    assert "torch" in imports_of("goldfold.golden.make").later
    assert "goldfold.exporter.driver.exporting" not in imports_of("goldfold").all  # typing only


# --- imports run one way


def test_rooms_are_those_of_the_folders() -> None:
    assert sorted(ROOMS) == sorted({room_of(module) for module in MODULES})
    assert len(ROOMS) <= 27


def test_every_arrow_between_rooms_runs_down() -> None:
    upward = [
        why
        for (above, below), reasons in arrows().items()
        if ROOMS.index(below) >= ROOMS.index(above)
        for why in reasons
    ]
    assert not upward, "\n".join(upward)


def test_the_house_stays_as_low_and_as_plain_as_it_is() -> None:
    found = arrows()
    assert len(found) <= 140
    floors: dict[str, int] = {}
    for room in ROOMS:
        floors[room] = 1 + max((floors[b] for a, b in found if a == room), default=0)
    assert max(floors.values()) <= 14, floors
    assert len(list((ROOT / "exporter").glob("*.py"))) <= 8


def test_golden_shares_no_code_with_what_it_checks() -> None:
    for module in inside("golden"):
        assert all(room_of(name).startswith("golden") for name in ours(module)), module


REFERENCES = {
    f"goldfold.golden.{name}" for name in ("make", "reference", "scoring", "sparse", "witness")
}
"""The modules that ask the reference."""


def test_golden_loads_the_reference_only_where_goldens_are_made() -> None:
    for module in inside("golden"):
        assert not {name.partition(".")[0] for name in imports_of(module).loaded} & TRAINERS, module
        assert module in REFERENCES or not tops(module) & TRAINERS, module


def test_only_the_tracer_and_the_reader_of_models_import_torch() -> None:
    frontend = "goldfold.exporter.frontend"
    allowed = {*inside("exporter.frontend.trace"), f"{frontend}.unpickle"}
    allowed |= {f"{frontend}.native_classes", f"{frontend}.adapters"}
    allowed.add("goldfold.exporter.artifact.st_arguments")  # for callers who ask for a tensor
    for module in inside("exporter", "targets"):
        assert module in allowed or not tops(module) & TRAINERS, module


def test_exporter_imports_no_vendor_but_onnxruntime_in_one_room() -> None:
    for module in inside("exporter"):
        allowed = {"onnxruntime"} if module == "goldfold.exporter.evaluate.interpret" else set()
        assert tops(module) & VENDORS <= allowed, module


def test_exporter_finds_targets_by_name_only() -> None:
    for module in inside("exporter"):
        assert not any(room_of(name).startswith("targets") for name in ours(module)), module


def test_targets_know_the_graph_and_no_export() -> None:
    """What a target of one's own may import as well: docs/adding-a-target.md."""
    below = ("exporter", "exporter.system", "exporter.ir", "exporter.passes", "exporter.evaluate")
    for module in inside("targets"):
        own = ".".join(room_of(module).split(".")[:2])
        for room in map(room_of, ours(module)):
            allowed = room in (*below, "exporter.passes.rewriting", "targets")
            assert allowed or f"{room}.".startswith(f"{own}."), f"{module}: {room}"


def test_target_imports_no_vendor_but_its_own() -> None:
    for module in inside("targets"):
        own = {{"coreml": "coremltools"}.get(name, name) for name in module.split(".")[2:3]}
        assert tops(module) & VENDORS <= own, module


def test_no_module_waits_for_itself() -> None:
    """Imports inside functions counted: a circle that is hidden in one is a circle."""
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            pytest.fail(" imports ".join((*trail[trail.index(module) :], module)))
        if module not in done:
            for wanted in sorted(ours(module)):
                walk(wanted, (*trail, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())


# --- the front door


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import goldfold.exporter.driver.exporting",
        "import goldfold.exporter.verification.verifying, goldfold.exporter.artifact.encoder",
    ],
)
def test_public_names_are_functions(before: str) -> None:
    code = f"{before}\nfrom goldfold import export, load, verify\n"
    code += "assert all(callable(f) for f in (export, load, verify)), (export, load, verify)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_takes_the_place_of_a_public_function() -> None:
    assert not {f"goldfold.{name}" for name in ("export", "load", "verify")} & MODULES.keys()


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


def test_no_function_takes_eight_parameters_but_the_public_ones() -> None:
    wide = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                if len([one for one in taken if one.arg not in ("self", "cls")]) > 7:
                    wide.add(node.name)
    assert wide == {"export", "embed", "verify"}

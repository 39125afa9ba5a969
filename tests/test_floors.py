"""The house keeps its floors: every module's imports are read with `ast`, without importing anything.

The order of floors, and of the modules on each floor, stands in FLOORS below. A module may import
modules of lower floors and modules that come before it on its own floor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "base": "errors streams startup caches identity files records parallel progress cli",
    "audio": "audio_files chunks mpeg structure layout sound limiter tags stated_layout markers embedded formats",
    "dsp": (
        "settings stft flatness linear_prediction masking layers mel loudness probe analysis smoothing overview gains generation resynthesis "
        "mix gain_field predictor reach solver move curve contour local_amounts move_curve mixdown"
    ),
    "data": "metadata histogram tiles incremental pictures demo",
    "learn": "settings archive detector model_file auditor model adam dataset game history checkpoint device audit figures training",
    "app": "targets outputs processor report batch_log plan batch instrument report_picture",
    "session": (
        "colours meter mixer player playback messages model_shelf opening worker library_state captions state "
        "views curve_editor setting preferences actions view_state models stage_process learning learn_state"
    ),
    "window": (
        "theme canvas_view hint picture panels slider overview_strip meter_view library_strip lane_view lane "
        "start_page file_list status_row mix_controls menus dialogs curve_commands file_commands page "
        "learn_pages learn_view learn_commands layout setting_commands transport view_commands window desktop"
    ),
}
SCRIPTS = ("measure_audio_grain", "convert_to_spectrograms", "cak_grain_processor", "neural_audio_processor")
ORDER = [f"neural_grain.{floor}.{module}" for floor, modules in FLOORS.items() for module in modules.split()]
WITH_TORCH = ("auditor", "model", "adam", "dataset", "game", "checkpoint", "device", "audit", "figures", "training")
HOMES = {  # a third-party package, and the modules that may import it
    "torch": tuple(f"neural_grain.learn.{room}" for room in WITH_TORCH),
    "tkinter": ("neural_grain.window.",),
    "sounddevice": ("neural_grain.session.player",),
    "soundfile": ("neural_grain.audio.", "neural_grain.data.demo"),
    "argparse": ("neural_grain.base.cli", *SCRIPTS),
}
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
PURE_CALLS = {  # what a module may call while it is imported: it makes a value and changes nothing
    "Path", "TypeVar", "getattr", "dict.fromkeys", "frozenset", "compile", "re.compile", "range", "slice", "field",
    "np.arange", "np.zeros", "math.log", "Meta", "msgspec.Meta", "map", "tuple", "getLogger", "logging.getLogger",
}  # fmt: skip


def module_files() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    files = [*(ROOT / "neural_grain").rglob("*.py"), *(ROOT / f"{script}.py" for script in SCRIPTS)]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


FILES = module_files()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that is imported below ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """The same for imports that run when the module is imported (not for type checkers, not in functions)."""
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)


def belongs_to(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_every_module_has_its_place_in_the_order():
    packages = {"neural_grain", *(f"neural_grain.{floor}" for floor in FLOORS)}
    assert set(FILES) - packages - set(SCRIPTS) == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_what_stands_before_it(module):
    for name in imported(TREES[module]):
        used = [other for other in ORDER if belongs_to(name, other)]
        assert all(ORDER.index(other) < ORDER.index(module) for other in used), f"{module} imports {name}"
        assert used or not belongs_to(name, "neural_grain") or name == "neural_grain.__version__", f"{module}: {name}"
        assert name.split(".")[0] not in SCRIPTS, f"{module} imports the script {name}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stage_imports_no_other_stage(script):
    assert not {name.split(".")[0] for name in imported(TREES[script])} & set(SCRIPTS)


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_only_in_the_rooms_that_need_it(package):
    users = {module for module, tree in TREES.items() if any(belongs_to(name, package) for name in imported(tree))}
    assert users, f"nobody imports {package}: the test looks at nothing"
    strangers = [user for user in users if not user.startswith(HOMES[package])]
    assert not strangers, f"{strangers} import {package}"


def loaded_with(module: str) -> set[str]:
    """Everything that is imported when ``module`` is imported, our own modules followed."""
    names, waiting, seen = set(), [module], set()
    while waiting:
        seen.add(ours := waiting.pop())
        new = set(imported_at_once(TREES[ours]))
        names |= new
        waiting += [other for other in FILES if other not in seen and any(belongs_to(name, other) for name in new)]
    return names


@pytest.mark.parametrize("module", [name for name in FILES if not name.startswith(HOMES["torch"])])
def test_torch_is_loaded_late_outside_its_rooms(module):
    assert not [name for name in loaded_with(module) if belongs_to(name, "torch")]


def calls_at_import(tree: ast.Module) -> Iterator[str]:
    """Functions that are called when the module is imported, other than the settings and types it defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            assert test in ("__name__ == '__main__'", "TYPE_CHECKING"), f"if {test}"
            continue
        assert isinstance(node, DEFINES), ast.unparse(node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for call in ast.walk(node.value):
                if isinstance(call, ast.Call):
                    yield ast.unparse(call.func)


@pytest.mark.parametrize("module", [*ORDER, *SCRIPTS])
def test_importing_a_module_does_nothing(module):
    for call in calls_at_import(TREES[module]):
        is_type = call.split(".")[-1][:1].isupper()  # an instance of a settings dataclass
        assert is_type or call in PURE_CALLS or call.endswith((".join", ".fromkeys", ".split", ".items")), (
            f"{module}: {call}()"
        )

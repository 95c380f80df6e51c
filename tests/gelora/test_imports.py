"""What importing costs, what it leaves alone, and that the import contracts catch what they forbid."""

import os
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from required import absent

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WITHOUT_TORCH = (
    "gelora",
    "gelora.profile",
    "gelora.ranks",
    "gelora.plots",
    "gelora.topology",
    "gelora.figures",
    "gelora.report",
    "gelora.registry",
    "gelora.cli",
)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def best_of_three(command: list[str]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.smoke
@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_module_that_only_handles_results_does_not_import_torch(module: str) -> None:
    loaded = run_python(f"import {module}, sys; print(*sys.modules)").split()
    assert module in loaded
    assert not {"torch", "transformers", "peft", "datasets"} & set(loaded)


@pytest.mark.smoke
def test_importing_gelora_changes_no_warning_filter_print_option_or_global_generator() -> None:
    code = (
        "import random, warnings, logging, matplotlib, numpy as np\n"
        "def state():\n"
        "    return (list(warnings.filters), np.get_printoptions(), np.random.get_state()[1].tolist(),\n"
        "      random.getstate(), dict(matplotlib.rcParams), logging.root.handlers, logging.root.level)\n"
        "before = state()\n"
        f"import {', '.join(WITHOUT_TORCH)}\n"
        "after = state()\n"
        "print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])"
    )
    assert run_python(code) == "[]"


@pytest.mark.smoke
def test_import_gelora_takes_less_than_half_a_second() -> None:
    empty = best_of_three([sys.executable, "-c", "pass"])
    assert best_of_three([sys.executable, "-c", "import gelora"]) - empty < 0.5


@pytest.mark.smoke
def test_the_command_line_prints_its_help_within_a_second() -> None:
    assert best_of_three([str(Path(sys.executable).parent / "gelora"), "--help"]) < 1.0


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("group", "table"),
    [
        ("gelora.estimators", PYPROJECT["project"]["entry-points"]["gelora.estimators"]),
        ("console_scripts", PYPROJECT["project"]["scripts"]),
    ],
)
def test_installed_entry_points_are_those_of_pyproject(group: str, table: dict[str, str]) -> None:
    installed = {
        point.name: point.value
        for point in entry_points(group=group)
        if point.dist is not None and point.dist.name == "gelora"
    }
    assert installed == table, "the installed entry points are old: run `make install` again"


VIOLATIONS = {
    "layers": ("src/gelora/files.py", "import gelora.provenance"),
    "estimators-layers": (
        "estimators/gelora_estimators/neighbors.py",
        "import gelora_estimators.spanning_tree",
    ),
    "estimators-alone": ("estimators/gelora_estimators/options.py", "import gelora.files"),
    "estimators-torch": ("estimators/gelora_estimators/points.py", "import torch"),
    "estimators-geometry": ("estimators/gelora_estimators/points.py", "import xarray"),
    "protocol-alone": ("src/gelora/provenance.py", "def late():\n    from gelora_estimators import points"),
    "protocol-numpy": ("estimators/gelora_estimators/protocol.py", "import scipy"),
    "plan-not-profile": ("src/gelora/finetuning/__init__.py", "import gelora.profile"),
}


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "src").is_dir():
        pytest.skip("only the source tree holds the contracts' modules")
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for folder in ("src", "estimators"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def lint_imports(tree: Path, contract: str) -> subprocess.CompletedProcess[str]:
    if find_spec("importlinter") is None:
        absent("import-linter is not installed: pip install 'gelora[dev]'")
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache", "--contract", contract],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tree / "src"), str(tree / "estimators")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_import_contract_has_a_violation_to_catch() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert [contract["id"] for contract in contracts] == list(VIOLATIONS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_an_import_contract_is_kept_by_the_code_and_broken_by_a_violation(copied_tree: Path, contract: str) -> None:
    file, line = VIOLATIONS[contract]
    path = copied_tree / file
    before = path.read_text(encoding="utf-8")
    kept = lint_imports(copied_tree, contract)
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    broken = lint_imports(copied_tree, contract)
    path.write_text(before, encoding="utf-8")
    assert kept.returncode == 0, kept.stdout
    assert broken.returncode != 0
    assert "0 kept, 1 broken" in broken.stdout


def test_a_module_that_no_layer_names_breaks_the_contract(copied_tree: Path) -> None:
    path = copied_tree / "src" / "gelora" / "unplaced.py"
    path.write_text("", encoding="utf-8")
    broken = lint_imports(copied_tree, "layers")
    path.unlink()
    assert broken.returncode != 0
    assert "gelora.unplaced" in broken.stdout

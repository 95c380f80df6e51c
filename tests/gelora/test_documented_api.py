"""The API page lists every public name, and nothing that is not there."""

import ast
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from documentation import DOCS, pages, python_blocks, tutorials

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")

ROOTS = ("gelora", "gelora.plots", "gelora_estimators")
# Without an underscore because other modules of gelora call them, but nothing that users are promised.
INTERNAL = {
    "gelora.evidence": {"estimator_label", "stacked_spread"},
    "gelora.export": {"Exportable", "config_fields", "export_plan", "make_lora_config", "model_name"},
    "gelora.finetuning.adaptation": {
        "ExtraState",
        "count_head",
        "count_trainable",
        "freeze_but_head",
        "train_in_float32",
    },
    "gelora.finetuning.adalora": {"left_factors"},
    "gelora.finetuning.adapters": {"check_plan_use", "describe_adapter"},
    "gelora.finetuning.lora": {"adapt", "adapted_by_peft", "check_ranks", "lora_config"},
    "gelora.finetuning.sora": {"open_factors"},
    "gelora.finetuning.whole": {"is_bias"},
    "gelora.plan_check": {"Planned", "bare_model", "check_adaptation"},
    "gelora.policies": {"check_takes", "find_policy", "recommended_label", "rises_and_dimensions"},
    "gelora.store": {"create", "locked"},
}


def listed_names() -> dict[str, list[str]]:
    """The names on the API page, by module."""
    found: dict[str, list[str]] = {}
    module = ""
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = heading[1]
        elif name := re.fullmatch(r" {3}(\w+)", line):
            found.setdefault(module, []).append(name[1])
    return found


def public_names(module: ModuleType) -> set[str]:
    """Functions and classes of ``__all__``, else those defined there or re-exported as ``X as X``."""
    names = set(getattr(module, "__all__", ()))
    if not names:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names if alias.asname == alias.name}
    values = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name for name, value in values.items() if inspect.isfunction(value) or inspect.isclass(value)}


LISTED = listed_names() if DOCS.is_dir() else {}


def documented_objects() -> set[int]:
    return {id(getattr(import_module(module), name)) for module, names in LISTED.items() for name in names}


@pytest.mark.parametrize("module", sorted({*ROOTS, *LISTED}))
def test_every_public_name_of_a_documented_module_is_listed(module: str) -> None:
    home = import_module(module)
    known = documented_objects()
    missing = {
        name for name in public_names(home) - INTERNAL.get(module, set()) if id(getattr(home, name)) not in known
    }
    assert not missing, f"docs/api.md lacks {sorted(missing)} of {module}"


@pytest.mark.parametrize(("module", "names"), sorted(LISTED.items()))
def test_what_is_listed_is_a_public_function_or_class(module: str, names: list[str]) -> None:
    assert len(set(names)) == len(names), f"docs/api.md lists a name of {module} twice"
    home = import_module(module)
    for name in names:
        value = getattr(home, name, None)
        assert inspect.isclass(value) or inspect.isfunction(value), f"docs/api.md lists {module}.{name}: there is none"
        assert (value.__doc__ or "").strip(), f"{module}.{name} has no docstring"


def test_every_name_called_internal_is_there() -> None:
    for module, names in INTERNAL.items():
        assert names <= public_names(import_module(module)), f"INTERNAL[{module!r}] names what is not there"


def test_every_package_that_re_exports_names_has_a_list() -> None:
    found = {"gelora_estimators"}
    for module in pkgutil.walk_packages(import_module("gelora").__path__, "gelora."):
        if module.ispkg and public_names(import_module(module.name)):
            found.add(module.name)
    assert "gelora.study" in found
    assert found <= LISTED.keys()


def test_public_modules_of_the_roots_have_a_list_of_their_own() -> None:
    for root in ROOTS:
        home = import_module(root)
        modules = {f"{root}.{name}" for name in getattr(home, "__all__", ()) if inspect.ismodule(getattr(home, name))}
        assert modules <= LISTED.keys()


def shown_names() -> dict[tuple[str, str], str]:
    """Each ``from gelora… import name`` of the pages, README and tutorials, with the file it is in."""
    found = {}
    sources = [(page, block) for page in pages() for block in python_blocks(page) if not block.startswith(">>>")]
    sources += [(script, script.read_text(encoding="utf-8")) for script in tutorials()]
    for file, source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "gelora",
                "gelora_estimators",
            ):
                found.update({(str(node.module), alias.name): Path(file).name for alias in node.names})
    return found


def test_every_function_and_class_that_examples_import_is_listed() -> None:
    known = documented_objects()
    shown = shown_names()
    assert ("gelora.demo", "demo_model") in shown
    for (module, name), file in shown.items():
        value = getattr(import_module(module), name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert id(value) in known, f"{file} imports {module}.{name}, which docs/api.md does not list"

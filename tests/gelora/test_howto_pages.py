"""What the how-to pages show runs, and prints what they say it prints."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "howto"
BLOCK = re.compile(r"(^% needs [^\n]*\n)?^```python\n(.*?)^```\n(?:\n^```(?:text|yaml)\n(.*?)^```)?", re.M | re.S)

pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the documentation is in the source tree only")


def blocks(page: Path) -> list[tuple[bool, str, str]]:
    """Return the Python blocks: whether one needs what is not here, its code, and what it prints."""
    return [(bool(needs), code, shown) for needs, code, shown in BLOCK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")) if PAGES.is_dir() else [], ids=lambda page: page.stem)
def test_every_python_block_compiles(page: Path) -> None:
    for _, code, _ in blocks(page):
        compile(code, page.name, "exec")


@pytest.mark.parametrize("name", ["transformers", "peft", "trl", "axolotl"])
@pytest.mark.filterwarnings("ignore")  # as in a reader's own process, a warning is no error
def test_the_blocks_of_a_page_run_in_their_order_and_print_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], minilm: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    n_shown = 0
    for needs, code, shown in blocks(PAGES / f"{name}.md"):
        if needs:
            continue
        exec(compile(code, name, "exec"), names)
        printed = capsys.readouterr().out
        if shown:
            assert printed.strip() == shown.strip()
            n_shown += 1
    assert n_shown


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_scripts_for_slurm_are_valid_bash() -> None:
    scripts = re.findall(r"^```bash\n(.*?)^```", (PAGES / "slurm.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(scripts) == 4
    for script in scripts:
        assert script.startswith("#!/bin/bash\n#SBATCH ")
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)


def test_console_commands_use_options_that_exist() -> None:
    from typer.main import get_command

    from gelora.cli import app

    known = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    found = 0
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"(?:^\$ |^|-m )gelora (\w+)(.*)$", text, re.M):
            used = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", rest))
            assert used <= known[name], f"{page.name}: gelora {name} has no {used - known[name]}"
            found += 1
    assert found > 8

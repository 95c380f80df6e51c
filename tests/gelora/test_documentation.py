"""What the documentation shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")


def python_blocks(page: str) -> list[str]:
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    return blocks


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_tutorial_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm: Path
) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in python_blocks("tutorial.md"):
        exec(compile(block, "tutorial.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"profile.nc", "plan.json", "corpus", "run"}
    assert len(plt.get_fignums()) == 2
    plt.close("all")


def test_commands_of_the_documentation_use_options_that_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*DOCS.glob("*.md"), ROOT / "README.md"])
    commands = re.findall(r"^\$ gelora (\w+)(.*)$", text, re.M)
    assert commands
    for command, rest in commands:
        shown = subprocess.run(
            [sys.executable, "-m", "gelora", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"COLUMNS": "200", "PATH": str(Path(sys.executable).parent)},
        ).stdout
        for option in re.findall(r"--[a-z][a-z-]+", rest):
            assert option in shown, f"gelora {command} has no {option}"


def test_the_figures_are_drawn_from_files(tmp_path: Path) -> None:
    from examples import example_plan, example_profile
    from gelora import save_profile

    save_profile(example_profile([[5.0, 7.0, 9.5]]), tmp_path / "profile.nc")
    example_plan([3, 4]).save(tmp_path / "plan-geometric.json")
    example_plan([2, 2], "uniform").save(tmp_path / "plan-uniform.json")
    script = ROOT / "paper_figures" / "own_profile.py"
    plans = [tmp_path / name for name in ("plan-geometric.json", "plan-uniform.json")]
    own = ["--profile", tmp_path / "profile.nc", "--plans", *plans, "--output", tmp_path / "figures"]
    subprocess.run([sys.executable, script, *own], check=True, capture_output=True, timeout=120)
    made = {path.name for path in (tmp_path / "figures").iterdir()}
    stems = ("own-profile", "own-ranks-geometric", "own-ranks-uniform", "own-ranks-compared")
    assert made == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")}

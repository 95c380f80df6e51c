"""What the documentation shows is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from documentation import DOCS, ROOT, pages, tutorials

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")


def options_of(command: str) -> set[str]:
    from typer.main import get_command

    from gelora.cli import app

    commands = vars(get_command(app))["commands"]
    assert command in commands, f"there is no gelora {command}"
    return {option for one in commands[command].params for option in (*one.opts, *one.secondary_opts)} | {"--help"}


def test_commands_of_the_documentation_use_options_that_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*pages(), *tutorials()])
    text = re.sub(r" \\\n[# ]*", " ", text)  # a command over several lines
    commands = re.findall(r"^[# ]*\$ gelora (\w+)(.*)$", text, re.M)
    assert {"estimate", "ranks", "finetune", "compare"} <= {command for command, _ in commands}
    for command, rest in commands:
        for option in re.findall(r"--[a-z][a-z-]+", rest):
            assert option in options_of(command), f"gelora {command} has no {option}"


def test_a_tutorial_says_first_what_it_gives_and_how_long_it_takes() -> None:
    assert len(tutorials()) >= 8
    for script in tutorials():
        source = script.read_text(encoding="utf-8")
        compile(source, script.name, "exec")
        beginning = source.split('"""')[1]
        assert "**At the end** you" in beginning, script.name
        assert "**Time**: " in beginning, script.name


def test_every_tutorial_has_a_place_in_the_order() -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from tutorial_order import ORDER, TutorialOrder
    finally:
        sys.path.pop(0)
    assert set(ORDER) == {script.stem for script in tutorials()}
    assert sorted(["own_estimator.py", "start.py", "new.py"], key=TutorialOrder("")) == [
        "start.py",
        "own_estimator.py",
        "new.py",
    ]


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

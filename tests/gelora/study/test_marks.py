"""Files are known again wherever they lie, and seen when they change."""

import shutil
from pathlib import Path

from gelora.study.marks import mark_of


def test_a_copy_has_the_mark_of_what_it_is_a_copy_of(tmp_path: Path) -> None:
    first = tmp_path / "first"
    (first / "inner").mkdir(parents=True)
    (first / "a.txt").write_text("a")
    (first / "inner" / "b.txt").write_text("b")
    shutil.copytree(first, tmp_path / "second")
    assert mark_of(str(first)) == mark_of(str(tmp_path / "second"))
    assert mark_of(str(first / "a.txt")) != mark_of(str(first / "inner" / "b.txt"))


def test_another_content_or_name_is_another_mark(tmp_path: Path) -> None:
    marks = set()
    for place, (name, text) in enumerate((("a.txt", "a"), ("a.txt", "b"), ("b.txt", "a"))):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / name).write_text(text)
        marks.add(mark_of(str(folder)))
    assert len(marks) == 3


def test_a_name_on_the_hub_stands_for_itself() -> None:
    assert mark_of("some/model") == "some/model"

"""A file is written whole or not at all."""

import errno
import os

import pytest

from gelora.files import atomic_path, check_writable, make_folder, naming_full_disk


def test_a_file_appears_whole_with_the_permissions_of_any_new_file(tmp_path):
    target = tmp_path / "out.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    (tmp_path / "plain.txt").touch()
    assert target.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "plain.txt"]


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named_with_the_file_and_what_to_do(tmp_path):
    target = tmp_path / "out.txt"
    for number in (errno.ENOSPC, errno.EDQUOT):
        said = r"cannot write `.*out\.txt` \([^()]*\): make room, and call again"
        with pytest.raises(OSError, match=said) as caught, naming_full_disk(tmp_path), atomic_path(target):
            raise OSError(number, "Can't close file (file write failed: time = now, 100 words of a library)")
        assert caught.value.errno == number
    with pytest.raises(OSError, match="broken"), atomic_path(target):
        raise OSError(errno.EIO, "broken")
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_named_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist, create it first"):
        check_writable(tmp_path / "absent" / "out.nc")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        check_writable(tmp_path / "file" / "out.nc")
    with pytest.raises(NotADirectoryError, match="a file is in the way"):
        make_folder(tmp_path / "file")
    assert make_folder(tmp_path / "a" / "b").is_dir()
    check_writable(tmp_path / "a" / "out.nc")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self"), reason="root writes anywhere here")  # noqa: PTH110
def test_a_read_only_folder_is_named():
    folder = "/proc/self"  # no one creates files there, root included
    with pytest.raises(PermissionError, match="is not writable"):
        check_writable(f"{folder}/out.nc")
    with pytest.raises(PermissionError, match="cannot make the folder"):
        make_folder(f"{folder}/folder")

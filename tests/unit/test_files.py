"""Files that appear whole or not at all, and paths that are refused before the work."""

from __future__ import annotations

import os
import stat

import pytest

from securedl.errors import InputError
from securedl.files import check_writable, contents, open_file, whole, write_atomically


def test_all_or_nothing(tmp_path):
    path = tmp_path / "figures"
    write_atomically(path, b"old")
    with pytest.raises(TypeError), whole(path) as file:
        file.writelines([b"half of the n", "no bytes"])
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["figures"]


def test_a_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for call in (lambda: check_writable(pipe), lambda: write_atomically(pipe, b"x")):
        with pytest.raises(InputError, match="pipe: it is no ordinary file"):
            call()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_nobody_waits_for_the_other_end_of_a_pipe(tmp_path, flags):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=r"^\[Errno"):
            open_file(path, flags)
        assert len(os.listdir("/proc/self/fd")) == before
    (tmp_path / "file").write_bytes(b"x")
    os.close(open_file(tmp_path / "file", flags))
    assert contents(tmp_path / "file") == b"x"


def test_what_cannot_be_written_is_refused_beforehand(tmp_path, monkeypatch):
    check_writable(None, tmp_path / "new")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="it is a folder; name a file"):
        check_writable(tmp_path / "new", tmp_path)
    with pytest.raises(InputError, match=r"none/new: there is no folder .*none$"):
        check_writable(tmp_path / "none" / "new")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match="you may not write to"):
        check_writable(tmp_path / "new")

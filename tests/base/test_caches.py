"""The cache folder of matplotlib. How it is replaced is in tests/stages/test_container.py."""

from __future__ import annotations

import ntpath
import os

from neural_grain.base.caches import _can_be_written


def test_a_folder_that_is_missing_can_be_written_to_if_it_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert _can_be_written(str(tmp_path / "a" / "b"))
    assert not _can_be_written(str(tmp_path / "file" / "b"))


def test_a_drive_of_windows_that_is_not_there_can_not_be_written_to(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        is_writable = _can_be_written("Q:\\caches\\matplotlib")
    assert not is_writable

"""Audio files in folders: their order, what is left out, and a folder that is missing."""

from __future__ import annotations

import pytest

from neural_grain.audio.audio_files import find_audio
from neural_grain.base.errors import PipelineError


class TestFindAudio:
    def test_files_are_sorted_and_hidden_ones_and_loops_of_links_are_left_out(self, tmp_path):
        for name in ("b/2.wav", "b/1.FLAC", "a/x.mp3", ".hidden/y.wav", "a/.z.wav", "a/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        found = [path.relative_to(tmp_path).as_posix() for path in find_audio([tmp_path])]
        assert found == ["a/x.mp3", "b/1.FLAC", "b/2.wav"]

    def test_a_named_file_is_found_once_whatever_its_extension(self, tmp_path):
        (tmp_path / "sound.xyz").touch()
        assert find_audio([tmp_path / "sound.xyz", tmp_path / "sound.xyz"]) == [tmp_path / "sound.xyz"]

    def test_a_missing_folder_is_an_error(self, tmp_path):
        with pytest.raises(PipelineError, match="no such file or folder"):
            find_audio([tmp_path / "nowhere"])

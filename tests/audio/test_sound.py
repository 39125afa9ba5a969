"""TODO"""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

import measure_audio_grain as stage1
from neural_grain.audio.sound import find_audio, sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.data import metadata as data_metadata
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.settings import GrainSettings

SETTINGS = GrainSettings()


def grain_of(y: np.ndarray, sr: int = SR) -> float:
    return measure_grain(sound_from_array(y, sr))


class TestFindAudio:
    def test_order_hidden_files_and_links(self, tmp_path):
        for name in ("b/2.wav", "b/1.FLAC", "a/x.mp3", ".hidden/y.wav", "a/.z.wav", "a/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        found = [path.relative_to(tmp_path).as_posix() for path in find_audio([tmp_path])]
        assert found == ["a/x.mp3", "b/1.FLAC", "b/2.wav"]

    def test_a_named_file_is_taken_whatever_it_is_called(self, tmp_path):
        (tmp_path / "sound.xyz").touch()
        assert find_audio([tmp_path / "sound.xyz", tmp_path / "sound.xyz"]) == [tmp_path / "sound.xyz"]

    def test_a_missing_folder_is_an_error(self, tmp_path):
        with pytest.raises(PipelineError, match="no such file or folder"):
            find_audio([tmp_path / "nowhere"])


FORMATS = [
    ("a.wav", "WAV", "PCM_U8", 0.5), ("b.wav", "WAV", "PCM_16", 0.02), ("c.wav", "WAV", "PCM_24", 0.02), ("d.wav", "WAV", "PCM_32", 0.02),
    ("e.wav", "WAV", "FLOAT", 0.02), ("f.wav", "WAV", "DOUBLE", 0.02), ("g.wav", "WAVEX", "PCM_24", 0.02), ("h.wav", "RF64", "PCM_16", 0.02),
    ("i.aiff", "AIFF", "PCM_16", 0.02), ("j.flac", "FLAC", "PCM_24", 0.02), ("k.ogg", "OGG", "VORBIS", 1.5), ("l.opus", "OGG", "OPUS", 1.5),
    ("m.mp3", "MP3", "MPEG_LAYER_III", 1.5), ("n.caf", "CAF", "PCM_16", 0.02),
]  # fmt: skip


@pytest.mark.parametrize(("name", "format_", "subtype", "octaves"), FORMATS)
def test_every_format_is_read(tmp_path, name, format_, subtype, octaves):
    y = np.stack([drone(-25, sr=48_000), drone(-25, sr=48_000, seed=1)], axis=1)
    sf.write(tmp_path / name, y, 48_000, subtype, format=format_)
    measured = stage1.measure_file(tmp_path / name, SETTINGS)
    assert isinstance(measured, data_metadata.FileGrain), measured
    assert abs(math.log2(measured.grain / grain_of(y, 48_000))) < octaves
    assert (measured.sample_rate_hz, measured.channels) == (48_000, 2)

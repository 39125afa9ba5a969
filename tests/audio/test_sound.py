"""Sounds: reading every format as the samples that were written, and what can't be read."""

from __future__ import annotations

import math
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.audio.audio_files import find_audio
from neural_grain.audio.sound import libsndfile_path, open_sound, sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.flatness import measure_grain

FORMATS = [  # name, container, sample format, tolerance of grain in octaves
    ("a.wav", "WAV", "PCM_U8", 0.5), ("b.wav", "WAV", "PCM_16", 0.02), ("c.wav", "WAV", "PCM_24", 0.02), ("d.wav", "WAV", "PCM_32", 0.02),
    ("e.wav", "WAV", "FLOAT", 0.02), ("f.wav", "WAV", "DOUBLE", 0.02), ("g.wav", "WAVEX", "PCM_24", 0.02), ("h.wav", "RF64", "PCM_16", 0.02),
    ("i.aiff", "AIFF", "PCM_16", 0.02), ("j.flac", "FLAC", "PCM_24", 0.02), ("k.ogg", "OGG", "VORBIS", 1.5), ("l.opus", "OGG", "OPUS", 1.5),
    ("m.mp3", "MP3", "MPEG_LAYER_III", 1.5), ("n.caf", "CAF", "PCM_16", 0.02),
]  # fmt: skip


UNREADABLE = {
    "folder.wav": "not readable (Is a directory)",
    "pipe.wav": "not readable (a pipe, socket or device, not a file)",
    "socket.wav": "not readable (a pipe, socket or device, not a file)",
    "broken link.wav": "not readable (No such file or directory)",
    "locked.wav": "not readable (Permission denied)",
    "locked folder": "not readable (Permission denied)",
}


@pytest.fixture
def unreadable_files():
    """A folder with a thing for each reason in UNREADABLE, which users other than root may search."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that other users may not search
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "folder.wav").mkdir()
        os.mkfifo(folder / "pipe.wav")
        socket.socket(socket.AF_UNIX).bind(str(folder / "socket.wav"))
        (folder / "broken link.wav").symlink_to("nowhere")
        sf.write(folder / "locked.wav", drone(), SR)
        (folder / "locked folder").mkdir()
        for locked in ("locked.wav", "locked folder"):
            (folder / locked).chmod(0)
        yield folder
        (folder / "locked folder").chmod(0o700)


@contextmanager
def without_root_permissions():
    """Let permissions count although the tests may run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_can_not_be_read_is_refused_with_the_reason(unreadable_files, name):
    with without_root_permissions(), pytest.raises(PipelineError) as err:
        open_sound(unreadable_files / name)
    assert str(err.value) == UNREADABLE[name]


def test_what_can_not_be_read_is_found_in_a_folder_so_that_it_is_reported(unreadable_files):
    with without_root_permissions():
        found = find_audio([unreadable_files])
        with pytest.raises(PipelineError, match=r"locked folder: not readable \(Permission denied\)"):
            find_audio([unreadable_files / "locked folder"])
    assert {path.name for path in found} == set(UNREADABLE) - {"folder.wav"}  # that one was searched


@pytest.mark.parametrize(("name", "container", "subtype", "tolerance_octaves"), FORMATS)
def test_the_grain_of_a_file_in_any_format_is_that_of_its_samples(
    tmp_path, name, container, subtype, tolerance_octaves
):
    y = np.stack([drone(-25, sr=48_000), drone(-25, sr=48_000, seed=1)], axis=1)
    sf.write(tmp_path / name, y, 48_000, subtype, format=container)
    sound = open_sound(tmp_path / name)
    assert (sound.sr, sound.channels) == (48_000, 2)
    octaves = math.log2(measure_grain(sound) / measure_grain(sound_from_array(y, 48_000)))
    assert abs(octaves) < tolerance_octaves


def test_libsndfile_gets_names_as_bytes_and_on_windows_as_text(monkeypatch):
    path = Path(os.fsdecode("ü".encode() + b"\xff.wav"))
    assert libsndfile_path(path) == "ü".encode() + b"\xff.wav"
    monkeypatch.setattr("sys.platform", "win32")
    assert libsndfile_path(path) == str(path)


def test_samples_must_have_one_or_two_dimensions():
    with pytest.raises(ValueError, match=r"y\.ndim=3"):
        sound_from_array(np.zeros((2, 2, 2)), SR)

"""Sample formats: exact conversion to integers, and the choice of an output format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR

from neural_grain.audio.formats import MAX_WAV_BYTES, OutputFormat, decode_samples, encode_samples, output_format


class TestConversion:
    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
    def test_writing_is_the_exact_inverse_of_reading(self, tmp_path, subtype):
        rng = np.random.default_rng(0)
        sf.write(tmp_path / "a.wav", rng.uniform(-1, 1, 5000), SR, subtype)
        y, _ = sf.read(tmp_path / "a.wav", dtype="float64")
        sf.write(tmp_path / "b.wav", encode_samples(y, subtype), SR, subtype)
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
    def test_decoded_samples_are_those_that_the_file_reads_as(self, tmp_path, subtype):
        stored = encode_samples(np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32), subtype)
        sf.write(tmp_path / "a.wav", stored, SR, subtype)
        y, _ = sf.read(tmp_path / "a.wav", dtype="float32")
        np.testing.assert_array_equal(decode_samples(stored, subtype), y)

    def test_samples_beyond_full_scale_are_clipped(self):
        np.testing.assert_array_equal(encode_samples(np.array([2.0, -2.0]), "PCM_16"), [32767, -32768])
        np.testing.assert_array_equal(encode_samples(np.array([2.0, -2.0]), "PCM_24"), [(2**23 - 1) << 8, -(2**31)])


@pytest.mark.parametrize(
    ("output", "input_subtype", "expected"),
    [
        ("x.wav", "PCM_16", ("WAV", "PCM_16")),
        ("x.flac", "FLOAT", ("FLAC", "PCM_24")),  # FLAC holds integers only
        ("x.wav", "VORBIS", ("WAV", "FLOAT")),
        ("x.wav", "MPEG_LAYER_III", ("WAV", "FLOAT")),
        ("x.mp3", "MPEG_LAYER_III", ("MP3", "MPEG_LAYER_III")),
        ("x.ogg", "PCM_16", ("OGG", "VORBIS")),
        ("x.opus", "VORBIS", ("OGG", "OPUS")),
    ],
)
def test_the_sample_format_of_the_input_is_kept_where_the_container_can_hold_it(output, input_subtype, expected):
    chosen = output_format(Path(output), OutputFormat("?", input_subtype), n_bytes=1000)
    assert (chosen.format, chosen.subtype) == expected


def test_a_wav_that_would_be_too_long_becomes_an_rf64():
    stored = OutputFormat("WAV", "PCM_16")
    assert output_format(Path("x.wav"), stored, MAX_WAV_BYTES).format == "WAV"
    assert output_format(Path("x.wav"), stored, MAX_WAV_BYTES + 1).format == "RF64"

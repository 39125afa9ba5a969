"""Sample formats: exact conversion to integers, and the choice of an output format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR

from neural_grain.audio.formats import (
    BLOCK_SUBTYPES,
    MAX_32_BIT_BYTES,
    OutputFormat,
    copy_samples,
    decode_samples,
    encode_samples,
    output_format,
    read_format,
)
from neural_grain.audio.sound import open_sound, sound_from_array
from neural_grain.base.errors import PipelineError

SOUND = sound_from_array(np.zeros((1000, 1), np.float32), SR)


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
    chosen = output_format(Path(output), OutputFormat("?", input_subtype), SOUND)
    assert (chosen.format, chosen.subtype) == expected


def test_a_wav_that_would_be_too_long_becomes_an_rf64():
    stored = OutputFormat("WAV", "PCM_16")
    longest = replace(SOUND, n_samples=MAX_32_BIT_BYTES // 4, channels=2)
    assert output_format(Path("x.wav"), stored, longest).format == "WAV"
    assert output_format(Path("x.wav"), stored, longest, subtype="PCM_24").format == "RF64"
    assert output_format(Path("x.wav"), stored, replace(longest, n_samples=MAX_32_BIT_BYTES // 4 + 1)).format == "RF64"


@pytest.mark.parametrize(
    ("subtype", "n_bytes"), [("PCM_16", 2), ("PCM_24", 3), ("FLOAT", 4), ("DOUBLE", 8), ("ULAW", 1)]
)
def test_the_longest_wav_and_aiff_have_nearly_4_gb_of_samples(subtype, n_bytes):
    stored, longest = OutputFormat("?", subtype), replace(SOUND, n_samples=MAX_32_BIT_BYTES // n_bytes)
    too_long = replace(longest, n_samples=longest.n_samples + 1)
    assert output_format(Path("x.wav"), stored, longest).format == "WAV"
    assert output_format(Path("x.wav"), stored, too_long).format == "RF64"
    assert output_format(Path("x.aiff"), stored, longest).format == "AIFF"
    with pytest.raises(PipelineError, match=r"x\.aiff: an AIFF holds 4 GB, and the samples need more"):
        output_format(Path("x.aiff"), stored, too_long)


def convert(source: Path, output: Path, subtype: str | None = None):
    """Copy a file into the format of another name, as the program does at position 0."""
    stored = read_format(source)
    target = output_format(output, stored, open_sound(source), subtype=subtype, is_copy=True)
    return copy_samples(source, stored, output, target)


class TestCopies:
    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
    @pytest.mark.parametrize("output", ["b.w64", "b.caf"])
    def test_a_format_with_more_bits_holds_the_same_samples(self, tmp_path, subtype, output):
        sf.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, (3000, 2)), SR, subtype)
        for target in ("DOUBLE", "FLOAT", "PCM_32") if subtype not in ("PCM_32", "FLOAT") else ("DOUBLE",):
            copy = convert(tmp_path / "a.wav", tmp_path / output, target)
            y, z = (sf.read(tmp_path / name, dtype="float64")[0] for name in ("a.wav", output))
            np.testing.assert_array_equal(y, z)
            assert not copy.is_identical
            assert copy.limited_db == 0

    def test_fewer_bits_are_rounded_with_dither_without_an_offset(self, tmp_path):
        t = np.arange(60_000) / SR
        y = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.2 / 2**15  # the tone lies between two steps of 16 bits
        sf.write(tmp_path / "a.wav", y, SR, "PCM_24")
        convert(tmp_path / "a.wav", tmp_path / "b.wav", "PCM_16")
        convert(tmp_path / "a.wav", tmp_path / "again.wav", "PCM_16")
        error = (sf.read(tmp_path / "b.wav")[0] - sf.read(tmp_path / "a.wav")[0]) * 2**15
        # Rounding adds a variance of 1/12 of a step, and triangular noise of two steps adds 1/6.
        assert abs(error.mean()) < 5 * 0.5 / np.sqrt(len(y))
        assert error.var() == pytest.approx(1 / 4, rel=0.05)
        assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "again.wav").read_bytes()

    def test_samples_that_fit_are_not_dithered(self, tmp_path):
        y = np.random.default_rng(0).integers(-(2**15), 2**15, 5000) / 2**15
        sf.write(tmp_path / "a.wav", y, SR, "FLOAT")
        convert(tmp_path / "a.wav", tmp_path / "b.flac", "PCM_16")
        np.testing.assert_array_equal(sf.read(tmp_path / "b.flac")[0], y)

    def test_peaks_beyond_full_scale_are_limited_and_reported(self, tmp_path):
        t = np.arange(SR) / SR
        y = 0.1 * np.sin(2 * np.pi * 440 * t)
        y[SR // 2] = 2.5
        sf.write(tmp_path / "a.wav", y, SR, "FLOAT")
        copy = convert(tmp_path / "a.wav", tmp_path / "b.flac")
        z = sf.read(tmp_path / "b.flac")[0]
        assert copy.limited_db == pytest.approx(20 * np.log10(2.5), abs=0.01)
        assert np.abs(z).max() < 1
        np.testing.assert_allclose(z[: SR // 4], y[: SR // 4], atol=2**-22)

    def test_the_same_format_is_copied_byte_for_byte(self, tmp_path):
        sf.write(tmp_path / "a.wav", np.zeros((1000, 2)), SR, "PCM_16", format="WAVEX")
        assert convert(tmp_path / "a.wav", tmp_path / "b.wav").is_identical
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
class TestFormatsOfWholeBlocks:
    def test_a_rendering_gets_a_format_that_keeps_the_length(self, tmp_path, subtype):
        sf.write(tmp_path / "a.wav", np.zeros(1001), 8000, subtype)
        stored, sound = read_format(tmp_path / "a.wav"), open_sound(tmp_path / "a.wav")
        assert stored.subtype == subtype
        assert output_format(Path("b.wav"), stored, sound).subtype == "PCM_16"
        assert output_format(Path("b.wav"), stored, sound, is_copy=True).subtype == subtype

    def test_it_is_refused_as_a_choice(self, subtype):
        with pytest.raises(PipelineError, match=f"{subtype} stores whole blocks"):
            output_format(Path("b.wav"), OutputFormat("WAV", "PCM_16"), SOUND, subtype=subtype)


def test_every_other_format_keeps_the_length(tmp_path):
    """All containers and sample formats that a rendering can have."""
    y = 0.1 * np.sin(2 * np.pi * 440 * np.arange(4001) / 8000)
    sf.write(tmp_path / "a.wav", y, 8000, "FLOAT")
    for extension in ("wav", "aiff", "flac", "ogg", "caf", "w64", "au"):
        for subtype in sf.available_subtypes(read_container(extension)):
            # libsndfile lists DWVW for AIFF, but refuses to write it.
            if subtype in BLOCK_SUBTYPES or subtype.startswith(("MPEG", "DWVW")):
                continue
            output = tmp_path / f"{subtype}.{extension}"
            convert(tmp_path / "a.wav", output, subtype)
            assert open_sound(output).n_samples == len(y), output


def read_container(extension: str) -> str:
    """libsndfile's name of the container of an extension."""
    return output_format(Path(f"x.{extension}"), OutputFormat("?", "PCM_16"), SOUND).format

"""TODO"""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone, noise, sine

from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor, RenderTarget
from neural_grain.audio.formats import native_dtype
from neural_grain.dsp.settings import GrainSettings


def grain_of(path) -> float:
    return measure_file(path, GrainSettings()).grain


@pytest.fixture(scope="module")
def processor(project) -> GrainProcessor:
    return GrainProcessor.load(project.model, "cpu")


FORMATS = [
    ("a.wav", "WAV", "PCM_U8"), ("b.wav", "WAV", "PCM_16"), ("c.wav", "WAV", "PCM_24"), ("d.wav", "WAV", "PCM_32"), ("e.wav", "WAV", "FLOAT"),
    ("f.wav", "WAV", "DOUBLE"), ("g.wav", "WAVEX", "PCM_24"), ("h.wav", "RF64", "PCM_16"), ("i.aiff", "AIFF", "PCM_24"), ("j.flac", "FLAC", "PCM_16"),
    ("k.flac", "FLAC", "PCM_S8"), ("l.ogg", "OGG", "VORBIS"), ("m.mp3", "MP3", "MPEG_LAYER_III"), ("n.caf", "CAF", "PCM_32"),
]  # fmt: skip


class TestZero:
    @pytest.mark.parametrize(("name", "format_", "subtype"), FORMATS)
    @pytest.mark.parametrize("extension", [None, ".wav", ".caf"])
    def test_gives_the_samples_back_bit_for_bit(self, processor, tmp_path, name, format_, subtype, extension):
        source = tmp_path / name
        sf.write(
            source,
            np.stack([drone(duration_s=0.3), 0.99 * noise(0.3, level=0.3)], axis=1).clip(-1, 1),
            SR,
            subtype,
            format=format_,
        )
        output = tmp_path / "out" / f"x{extension or source.suffix}"
        processor.render_file(source, output, RenderTarget(0.0))
        dtype = native_dtype(subtype)
        before, after = (sf.read(path, dtype=dtype, always_2d=True) for path in (source, output))
        assert after[1] == before[1]
        np.testing.assert_array_equal(after[0], before[0])
        if subtype not in ("VORBIS", "MPEG_LAYER_III", "PCM_S8", "PCM_U8"):
            assert sf.info(output).subtype == subtype

    def test_gives_silence_back_too(self, processor, tmp_path):
        sf.write(tmp_path / "zeros.wav", np.zeros(1000), SR)
        assert processor.render_file(tmp_path / "zeros.wav", tmp_path / "out.wav", RenderTarget(0.0)).rendering is None
        assert (tmp_path / "zeros.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


class TestLaw:
    @pytest.mark.parametrize("octaves", [-2.0, -0.5, 1.0])
    @pytest.mark.parametrize(
        ("subtype", "sr", "channels"), [("PCM_16", 44_100, 1), ("PCM_24", 96_000, 2), ("FLOAT", 22_050, 6)]
    )
    def test_holds_in_the_file_that_was_written(self, processor, tmp_path, octaves, subtype, sr, channels):
        source, output = tmp_path / "in.wav", tmp_path / "out.wav"
        sf.write(source, np.stack([drone(-45, sr=sr, seed=i) / (i + 1) for i in range(channels)], axis=1), sr, subtype)
        result = processor.render_file(source, output, RenderTarget(octaves)).rendering
        before, after = sf.info(source), sf.info(output)
        assert (after.samplerate, after.channels, after.frames, after.subtype) == (
            before.samplerate,
            before.channels,
            before.frames,
            before.subtype,
        )
        got = math.log2(grain_of(source) / grain_of(output))
        assert got == pytest.approx(octaves, abs=0.02)
        assert got == pytest.approx(result.got_octaves, abs=1e-6)

    def test_the_peak_never_passes_full_scale(self, processor, tmp_path):
        y = noise(2, level=1.0) * np.exp(-np.arange(2 * SR) % 11_025 / 300)
        sf.write(tmp_path / "in.wav", 0.999 * y / np.abs(y).max(), SR, "PCM_16")
        rendering = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", RenderTarget(2.0)).rendering
        z, _ = sf.read(tmp_path / "out.wav", dtype="int16")
        at_full_scale = np.flatnonzero(np.abs(z.astype(int)) >= 32767)
        assert np.all(np.diff(at_full_scale) > 10_000)  # each of the eight strokes may touch it once, none is cut off
        assert rendering.got_octaves == pytest.approx(2.0, abs=0.02)


def test_the_python_interface_does_what_its_documentation_shows(project):
    names = {"GrainProcessor": GrainProcessor, "MODEL": project.model, "np": np}
    example = doctest.DocTestFinder(recurse=False).find(GrainProcessor, "GrainProcessor", globs=names)
    result = doctest.DocTestRunner().run(example[0])
    assert result.attempted == 7
    assert result.failed == 0


def test_twenty_five_positions_never_turn_back(processor):
    y = drone(-45, 1.5)
    grains = [processor.measure(processor.render(y, SR, grain=s), SR) for s in np.linspace(-3, 3, 25)]
    assert np.all(np.diff(grains) <= 0)
    assert grains[0] / grains[-1] > 30


def test_a_tone_alone_is_not_broken_by_any_position(processor, tmp_path):
    sf.write(tmp_path / "tone.wav", sine(440, 2), SR, "PCM_16")
    for octaves in (-3.0, -1.0, 1.0, 3.0):
        rendering = processor.render_file(
            tmp_path / "tone.wav", tmp_path / "out.wav", RenderTarget(octaves), overwrite=True
        ).rendering
        assert rendering.within_reach is False or rendering.got_octaves == pytest.approx(octaves, abs=0.05)
        assert sf.info(tmp_path / "out.wav").frames == 2 * SR

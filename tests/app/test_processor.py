"""Rendering files and samples: 0 is a copy, and elsewhere the output has the requested grain."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone, noise, sine

from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor, RenderTarget, output_name
from neural_grain.audio.formats import native_dtype
from neural_grain.audio.sound import open_sound
from neural_grain.base.files import file_stamp
from neural_grain.dsp.settings import GrainSettings

FORMATS = [
    ("a.wav", "WAV", "PCM_U8"), ("b.wav", "WAV", "PCM_16"), ("c.wav", "WAV", "PCM_24"), ("d.wav", "WAV", "PCM_32"), ("e.wav", "WAV", "FLOAT"),
    ("f.wav", "WAV", "DOUBLE"), ("g.wav", "WAVEX", "PCM_24"), ("h.wav", "RF64", "PCM_16"), ("i.aiff", "AIFF", "PCM_24"), ("j.flac", "FLAC", "PCM_16"),
    ("k.flac", "FLAC", "PCM_S8"), ("l.ogg", "OGG", "VORBIS"), ("m.mp3", "MP3", "MPEG_LAYER_III"), ("n.caf", "CAF", "PCM_32"),
]  # fmt: skip
SUBTYPES_THAT_CHANGE = ("VORBIS", "MPEG_LAYER_III", "PCM_S8", "PCM_U8")  # .wav or .caf can't hold them as they are


def grain_of(path: Path) -> float:
    return measure_file(path, GrainSettings()).grain


@pytest.fixture(scope="module")
def processor(project) -> GrainProcessor:
    return GrainProcessor.load(project.model, "cpu")


class TestZero:
    @pytest.mark.parametrize(("name", "format_", "subtype"), FORMATS)
    @pytest.mark.parametrize("extension", [None, ".wav", ".caf"])
    def test_returns_the_samples_bit_for_bit_in_every_format(
        self, processor, tmp_path, name, format_, subtype, extension
    ):
        source = tmp_path / name
        y = np.stack([drone(duration_s=0.3), 0.99 * noise(0.3, level=0.3)], axis=1).clip(-1, 1)
        sf.write(source, y, SR, subtype, format=format_)
        output = tmp_path / "out" / f"x{extension or source.suffix}"
        processor.render_file(source, output, RenderTarget(0.0))
        dtype = native_dtype(subtype)
        before, after = (sf.read(path, dtype=dtype, always_2d=True) for path in (source, output))
        assert after[1] == before[1]
        np.testing.assert_array_equal(after[0], before[0])
        if subtype not in SUBTYPES_THAT_CHANGE:
            assert sf.info(output).subtype == subtype

    def test_copies_silence_which_has_no_grain(self, processor, tmp_path):
        sf.write(tmp_path / "zeros.wav", np.zeros(1000), SR)
        assert processor.render_file(tmp_path / "zeros.wav", tmp_path / "out.wav", RenderTarget(0.0)).rendering is None
        assert (tmp_path / "zeros.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


class TestLaw:
    @pytest.mark.parametrize("octaves", [-2.0, -0.5, 1.0])
    @pytest.mark.parametrize(
        ("subtype", "sr", "channels"), [("PCM_16", 44_100, 1), ("PCM_24", 96_000, 2), ("FLOAT", 22_050, 6)]
    )
    def test_holds_in_the_written_file(self, processor, tmp_path, octaves, subtype, sr, channels):
        source, output = tmp_path / "in.wav", tmp_path / "out.wav"
        sf.write(source, np.stack([drone(-45, sr=sr, seed=i) / (i + 1) for i in range(channels)], axis=1), sr, subtype)
        result = processor.render_file(source, output, RenderTarget(octaves)).rendering
        before, after = sf.info(source), sf.info(output)
        for name in ("samplerate", "channels", "frames", "subtype"):
            assert getattr(after, name) == getattr(before, name)
        achieved = math.log2(grain_of(source) / grain_of(output))
        assert achieved == pytest.approx(octaves, abs=0.02)
        assert achieved == pytest.approx(result.achieved_octaves, abs=1e-6)

    def test_holds_while_peaks_are_limited_below_full_scale(self, processor, tmp_path):
        y = noise(2, level=1.0) * np.exp(-np.arange(2 * SR) % 11_025 / 300)  # eight strokes
        sf.write(tmp_path / "in.wav", 0.999 * y / np.abs(y).max(), SR, "PCM_16")
        rendering = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", RenderTarget(2.0)).rendering
        z, _ = sf.read(tmp_path / "out.wav", dtype="int16")
        at_full_scale = np.flatnonzero(np.abs(z.astype(int)) >= 32767)
        assert np.all(np.diff(at_full_scale) > 10_000)  # a stroke may reach it once; a clipped one would stay there
        assert rendering.achieved_octaves == pytest.approx(2.0, abs=0.02)

    def test_grain_falls_monotonically_over_25_positions(self, processor):
        y = drone(-45, 1.5)
        grains = [processor.measure(processor.render(y, SR, grain=s), SR) for s in np.linspace(-3, 3, 25)]
        assert np.all(np.diff(grains) <= 0)
        assert grains[0] / grains[-1] > 30

    def test_holds_for_a_pure_tone_or_the_tone_is_reported_as_out_of_reach(self, processor, tmp_path):
        source, output = tmp_path / "tone.wav", tmp_path / "out.wav"
        sf.write(source, sine(440, 2), SR, "PCM_16")
        for octaves in (-3.0, -1.0, 1.0, 3.0):
            rendering = processor.render_file(source, output, RenderTarget(octaves), overwrite=True).rendering
            assert not rendering.within_reach or rendering.achieved_octaves == pytest.approx(octaves, abs=0.05)
            assert sf.info(output).frames == 2 * SR


def test_the_example_in_the_documentation_works_with_the_import_from_the_script(project):
    from neural_audio_processor import GrainProcessor

    names = {"GrainProcessor": GrainProcessor, "MODEL": project.model, "np": np}
    example = doctest.DocTestFinder(recurse=False).find(GrainProcessor, "GrainProcessor", globs=names)
    result = doctest.DocTestRunner().run(example[0])
    assert result.attempted == 7
    assert result.failed == 0


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (RenderTarget(-2.0), "x_grain-2.0.wav"),
        (RenderTarget(0.25), "x_grain+0.25.wav"),
        (RenderTarget(3.0), "x_grain+3.0.wav"),
        (RenderTarget(target_grain=0.02), "x_grain0.02.wav"),
    ],
)
def test_an_output_is_named_after_its_target(target, name):
    assert output_name(Path("x.mp3"), target) == name


def test_long_names_are_shortened_to_different_ones():
    names = {output_name(Path("x" * 240 + ending + ".wav"), RenderTarget(1.0)) for ending in ("aaaaaaa", "bbbbbbb")}
    assert len(names) == 2
    assert {len(name) for name in names} == {255}


@pytest.mark.parametrize(("change", "is_used"), [(lambda path: None, True), (lambda path: path.touch(), False)])
def test_an_adopted_solver_is_used_unless_the_file_has_changed(processor, tmp_path, monkeypatch, change, is_used):
    path, analysed = tmp_path / "in.wav", []
    sf.write(path, drone(-45, 1.0), SR)
    solver = processor.solver(open_sound(path), on_analysed=analysed.append)
    processor.adopt_solver(path, file_stamp(path), solver)
    monkeypatch.setattr(processor, "solver", lambda sound: analysed.append(sound) or solver)
    change(path)
    processor.render_file(path, tmp_path / "out.wav", RenderTarget(1.0))
    assert len(analysed) == (1 if is_used else 2)

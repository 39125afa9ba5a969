"""Rendering files and samples: 0 is a copy, and elsewhere the output has the requested grain."""

from __future__ import annotations

import doctest
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, SR, drone, noise, sine
from scipy.signal import lfilter

from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.report import describe_amounts, describe_result
from neural_grain.app.targets import LAYER_NAMES, RenderTarget, output_name
from neural_grain.audio.formats import native_dtype
from neural_grain.audio.sound import open_sound
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mix import Mix
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
def processor() -> GrainProcessor:
    return GrainProcessor()


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


class TestCopyInAnotherFormat:
    @pytest.mark.parametrize("octaves", [0.0, 3.0])
    def test_the_reported_grain_is_that_of_the_file(self, processor, tmp_path, octaves):
        quiet_tone = 1e-4 * sine(440)  # can't be made smoother, and in 16 bits it is mostly dither
        sf.write(tmp_path / "a.wav", quiet_tone, SR, "FLOAT")
        output = tmp_path / "b.wav"
        result = processor.render_file(tmp_path / "a.wav", output, RenderTarget(octaves), subtype="PCM_16")
        assert result.rendering.grain_after == pytest.approx(grain_of(output), rel=1e-6)
        assert result.rendering.grain_after > 10 * result.rendering.grain_before


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
        strokes = np.exp(-np.arange(2 * SR) % 11_025 / 300)
        y = lfilter([1.0], [1.0, -0.9], noise(2, level=1.0)) * strokes
        sf.write(tmp_path / "in.wav", 0.999 * y / np.abs(y).max(), SR, "PCM_16")
        rendering = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", RenderTarget(1.0)).rendering
        z, _ = sf.read(tmp_path / "out.wav", dtype="int16")
        at_full_scale = np.flatnonzero(np.abs(z.astype(int)) >= 32767)
        assert np.all(np.diff(at_full_scale) > 10_000)  # a stroke may reach it once; a clipped one would stay there
        assert rendering.limited_db > 1
        assert rendering.achieved_octaves == pytest.approx(1.0, abs=0.05)

    @pytest.mark.parametrize("name", ["in.ogg", "in.mp3"])
    def test_a_lossy_output_decodes_without_clipping(self, processor, tmp_path, name):
        y = drone(-30, 2.0)
        sf.write(tmp_path / name, 0.97 * y / np.abs(y).max(), SR)
        processor.render_file(tmp_path / name, tmp_path / f"out_{name}", RenderTarget(-3.0))
        assert np.abs(sf.read(tmp_path / f"out_{name}")[0]).max() < 1.0

    def test_grain_falls_monotonically_over_25_positions(self, processor):
        y = drone(-45, 1.0)
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


class TestLayers:
    @pytest.mark.parametrize(
        ("octaves", "subtype", "tolerance"), [(-2.0, "FLOAT", 1e-6), (2.5, "PCM_24", 1e-6), (0.0, "PCM_16", 4 / 2**15)]
    )
    def test_tones_and_texture_as_saved_add_up_to_the_rendering_as_saved(
        self, processor, tmp_path, octaves, subtype, tolerance
    ):
        source = tmp_path / "in.wav"
        sf.write(source, np.stack([drone(-45), drone(-40, seed=1)], axis=1), SR, subtype)
        files = {}
        for layer in (None, *LAYER_NAMES):
            output = tmp_path / f"{layer}.wav"
            result = processor.render_file(source, output, RenderTarget(octaves, layer=layer))
            assert (result.layer, sf.info(output).subtype) == (layer, subtype)
            files[layer], _ = sf.read(output)
        np.testing.assert_allclose(files["tones"] + files["texture"], files[None], atol=tolerance)
        assert np.std(files["texture"]) < 0.1 * np.std(files["tones"])

    def test_they_add_up_where_the_limiter_works(self, processor, tmp_path):
        y = drone(-60) + 0.9 * noise(3.0, level=1.0) * (np.arange(3 * SR) % SR < 40)  # clicks
        sf.write(tmp_path / "in.wav", 0.9 * y / np.abs(y).max(), SR, "FLOAT")
        files = {}
        for layer in (None, *LAYER_NAMES):
            result = processor.render_file(
                tmp_path / "in.wav", tmp_path / "out.wav", RenderTarget(-2, layer=layer), overwrite=True
            )
            files[layer], _ = sf.read(tmp_path / "out.wav")
            assert result.rendering.limited_db > 1
        np.testing.assert_allclose(files["tones"] + files["texture"], files[None], atol=1e-6)

    def test_silence_has_no_layers(self, processor, tmp_path):
        sf.write(tmp_path / "in.wav", np.zeros(SR), SR)
        with pytest.raises(PipelineError, match="silent"):
            processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", RenderTarget(layer="tones"))
        assert not (tmp_path / "out.wav").exists()


class TestMix:
    @pytest.mark.parametrize("mix", [Mix(0.5, -3.0), Mix(0.3, 9.0), Mix(0.0, 2.0)])
    @pytest.mark.parametrize("octaves", [-2.0, 0.0])
    def test_layers_as_saved_add_up_to_the_mix_as_saved(self, processor, tmp_path, mix, octaves):
        sf.write(tmp_path / "in.wav", np.stack([drone(-45), drone(-40, seed=1)], axis=1), SR, "FLOAT")
        files = {}
        for layer in (None, *LAYER_NAMES):
            target = RenderTarget(octaves, layer=layer, mix=mix)
            result = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", target, overwrite=True)
            assert result.mix == mix
            files[layer], _ = sf.read(tmp_path / "out.wav")
        np.testing.assert_allclose(files["tones"] + files["texture"], files[None], atol=1e-6)

    def test_the_file_is_the_mix_of_the_two_files(self, processor, tmp_path):
        y = 0.5 * drone(-45)
        sf.write(tmp_path / "in.wav", y, SR, "FLOAT")
        files = {}
        for wet in (1.0, 0.5):
            target = RenderTarget(-2.0, mix=Mix(wet))
            rendering = processor.render_file(
                tmp_path / "in.wav", tmp_path / "out.wav", target, overwrite=True
            ).rendering
            files[wet], amounts = sf.read(tmp_path / "out.wav")[0], rendering.amounts
        np.testing.assert_allclose(files[0.5], 0.5 * (y + files[1.0]), atol=1e-6)
        z = processor.render(y, SR, grain=-2.0, mix=Mix(0.5))
        np.testing.assert_allclose(z, files[0.5], atol=1e-6)
        assert amounts.texture_db > 0

    def test_samples_get_a_gain_that_stays_below_full_scale(self, processor):
        y = 0.5 * drone(-45, 1.0)
        np.testing.assert_allclose(processor.render(y, SR, grain=0, mix=Mix(gain_db=-6)), 10**-0.3 * y, atol=1e-7)
        assert np.abs(processor.render(y, SR, grain=0, mix=Mix(gain_db=20))).max() == pytest.approx(1)
        np.testing.assert_array_equal(processor.render(y, SR, grain=-2, mix=Mix(0.0)), y)

    def test_without_grain_a_gain_is_still_done_and_said(self, processor, tmp_path):
        sf.write(tmp_path / "in.wav", noise(0.01), SR, "FLOAT")
        target = RenderTarget(mix=Mix(0.5, 6.0))
        result = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", target)
        assert describe_result(result) == "no grain to measure; gain +6.0 dB"
        y, z = (sf.read(tmp_path / name)[0] for name in ("in.wav", "out.wav"))
        np.testing.assert_allclose(z, 10**0.3 * y, rtol=1e-6)

    @pytest.mark.parametrize(("name", "format_", "subtype"), FORMATS)
    def test_a_gain_works_in_every_format(self, processor, tmp_path, name, format_, subtype):
        y = 0.2 * drone(duration_s=0.5)
        sf.write(tmp_path / name, y, SR, subtype, format=format_)
        output = tmp_path / f"out{Path(name).suffix}"
        result = processor.render_file(tmp_path / name, output, RenderTarget(mix=Mix(gain_db=6.0)))
        (before, _), (after, _) = sf.read(tmp_path / name), sf.read(output)
        assert len(after) == len(before)
        assert result.rendering.level_db == pytest.approx(6.0, abs=0.1)
        ratio = np.sqrt(np.mean(after[: len(before)] ** 2) / np.mean(before**2))
        assert 20 * math.log10(ratio) == pytest.approx(6.0, abs=0.3)


class TestReport:
    @pytest.mark.parametrize(
        ("amounts", "words"),
        [
            (Amounts(9.12, 0.0), ", only texture moved: +9.1 dB"),
            (Amounts(-20.0, 0.3), ", texture moved: -20.0 dB, and weak partials thinned out"),
            (Amounts(9.0, 0.0, fill=0.3), ", texture moved: +9.0 dB, and weak bands filled with noise"),
            (
                Amounts(0.0, -0.3, fill=1.0),
                ", no texture to move: weak bands filled with noise and the spectrum flattened",
            ),
            (Amounts(0.0, 0.3), ", no texture to move: weak partials thinned out"),
            (Amounts(0.0, 0.0), ""),
        ],
    )
    def test_it_says_in_words_what_was_moved(self, amounts, words):
        assert describe_amounts(amounts) == words


class TestArrays:
    """What the Python interface takes as samples, rate and octaves, and how it refuses the rest."""

    Y = drone(-45, 0.5)

    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [
            ("int8", 0.01),
            ("uint8", 0.01),
            ("int16", 1e-4),
            (">i2", 1e-4),
            ("int32", 1e-8),
            ("float16", 1e-3),
            ("longdouble", 0),
        ],
    )
    def test_integers_are_scaled_by_their_full_scale_and_every_float_type_is_taken(self, processor, dtype, tolerance):
        kind = np.dtype(dtype)
        full_scale = 2.0 ** (8 * kind.itemsize - 1) if kind.kind in "iu" else 1.0
        y = self.Y * full_scale + (full_scale if kind.kind == "u" else 0)
        y = (np.round(y) if kind.kind in "iu" else y).astype(kind)
        np.testing.assert_allclose(processor.render(y, SR, grain=0), self.Y, atol=tolerance)
        z = processor.render(y, SR, grain=-1)
        assert (z.dtype, z.shape) == (np.float32, y.shape)
        assert np.abs(z).max() <= 1
        assert np.std(z) == pytest.approx(np.std(self.Y), rel=0.06)
        assert math.log2(processor.measure(z, SR) / processor.measure(y, SR)) == pytest.approx(1, abs=0.02)

    def test_lists_and_arrays_of_any_layout_give_the_same_as_a_plain_array(self, processor):
        y = np.stack([self.Y, 0.5 * self.Y], axis=1)
        expected = processor.render(y, SR, grain=-1)
        read_only = y.copy()
        read_only.flags.writeable = False
        rows_apart = np.repeat(y, 2, axis=0)[::2]
        for each in (
            y.tolist(),
            read_only,
            rows_apart,
            np.asfortranarray(y),
            np.ascontiguousarray(y.T).T,
            y[::-1][::-1],
        ):
            np.testing.assert_array_equal(processor.render(each, SR, grain=-1), expected)
        np.testing.assert_array_equal(processor.render(y, np.int64(SR), grain=np.float32(-1)), expected)
        np.testing.assert_array_equal(processor.render(y, float(SR), grain=-1), expected)

    @pytest.mark.parametrize(
        ("y", "line"),
        [
            (np.stack([Y, Y]), r"y\.shape=\(2, 22050\) must be \(samples, channels\): samples come first"),
            (Y[None], r"y\.shape=\(1, 22050\) must be \(samples, channels\)"),
            (Y[:, None, None], r"y\.ndim=3 must be 1 or 2"),
            (0.5, r"y\.ndim=0 must be 1 or 2"),
            (np.zeros((100, 0)), r"y\.shape=\(100, 0\) must have at least one channel"),
            (Y > 0, r"y\.dtype=bool must be a float type"),
            (Y + 0j, r"y\.dtype=complex128 must be"),
            (Y.astype(object), r"y\.dtype=object must be"),
            (np.arange(SR), r"y\.dtype=int64 must be"),
            (None, r"y\.dtype=object must be"),
        ],
    )
    def test_what_is_no_array_of_samples_is_refused_with_the_reason(self, processor, y, line):
        for refused in (lambda: processor.render(y, SR, grain=-1), lambda: processor.measure(y, SR)):
            with pytest.raises(ValueError, match=line):
                refused()

    @pytest.mark.parametrize(
        ("y", "line"),
        [
            (np.zeros(0), "empty: it holds no samples"),
            (np.zeros((0, 2)), "empty: it holds no samples"),
            ([], "empty: it holds no samples"),
            (Y[:100], "too short: 2.3 ms"),
            (np.zeros(SR), "silent"),
            (np.where(np.arange(len(Y)) == 9_999, np.nan, Y), "contains NaN or infinite"),
            (np.where(np.arange(len(Y)) == 9_999, -np.inf, Y), "contains NaN or infinite"),
            (1e300 * Y, "contains NaN or infinite"),
        ],
    )
    def test_samples_without_grain_are_refused_with_the_reason(self, processor, y, line):
        for refused in (lambda: processor.render(y, SR, grain=-1), lambda: processor.measure(y, SR)):
            with pytest.raises(PipelineError, match=line):
                refused()

    @pytest.mark.parametrize("sr", [0, -44_100, math.nan, math.inf, 22_050.5, "44100", None, True])
    def test_a_rate_that_is_no_whole_number_above_zero_is_refused(self, processor, sr):
        for refused in (lambda: processor.render(self.Y, sr, grain=-1), lambda: processor.measure(self.Y, sr)):
            with pytest.raises(ValueError, match=f"sr={sr!r} must be a whole number"):
                refused()

    @pytest.mark.parametrize("grain", [math.nan, math.inf, -math.inf, "-2", [1.0], 1j])
    def test_octaves_that_are_no_finite_number_are_refused(self, processor, grain):
        with pytest.raises(ValueError, match=r"grain=.* must be a finite number"):
            processor.render(self.Y, SR, grain=grain)

    def test_octaves_beyond_the_slider_move_as_far_as_the_sound_goes(self, processor):
        far, farther = (processor.render(self.Y, SR, grain=octaves) for octaves in (-30.0, -300.0))
        np.testing.assert_array_equal(far, farther)
        assert processor.measure(far, SR) > 2 * processor.measure(self.Y, SR)

    @pytest.mark.parametrize(
        "values",
        [
            {"octaves": math.nan},
            {"octaves": math.inf},
            {"target_grain": 0.0},
            {"target_grain": math.nan},
            {"layer": "x"},
        ],
    )
    def test_a_target_that_no_rendering_can_reach_is_refused(self, values):
        (name,) = values
        with pytest.raises(ValueError, match=f"{name}="):
            RenderTarget(**values)


def test_the_example_in_the_documentation_works_with_the_import_from_the_script():
    from neural_audio_processor import GrainProcessor

    names = {"GrainProcessor": GrainProcessor, "np": np}
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
        (RenderTarget(-2.0, layer="tones"), "x_grain-2.0_tones.wav"),
        (RenderTarget(layer="texture"), "x_texture.wav"),
        (RenderTarget(-2.0, mix=Mix(0.5)), "x_grain-2.0_mix50.wav"),
        (RenderTarget(-2.0, mix=Mix(0.125, -3.0), layer="tones"), "x_grain-2.0_mix12.5_-3dB_tones.wav"),
        (RenderTarget(mix=Mix(gain_db=1.5)), "x_grain+0.0_+1.5dB.wav"),
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
    solver = processor.solver(open_sound(path))
    processor.adopt_solver(path, file_stamp(path), solver)
    monkeypatch.setattr(processor, "solver", lambda sound: analysed.append(sound) or solver)
    change(path)
    processor.render_file(path, tmp_path / "out.wav", RenderTarget(1.0))
    assert len(analysed) == (0 if is_used else 1)


def test_the_number_of_threads_of_blas_does_not_change_a_rendering(tmp_path):
    sf.write(tmp_path / "a.wav", drone(), SR)
    outputs = []
    for n_threads in ("1", "2"):
        output = tmp_path / f"{n_threads}.wav"
        subprocess.run(
            [
                sys.executable,
                ROOT / "neural_audio_processor.py",
                tmp_path / "a.wav",
                "--grain",
                "-1",
                "-o",
                output,
            ],
            env=os.environ | {"OMP_NUM_THREADS": n_threads, "OMP_WAIT_POLICY": "passive"},
            check=True,
            capture_output=True,
        )
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]

"""The slider over time from the command line: curves, oscillators, contours of a reference, reports, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, Ran, call, drone

from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import open_sound
from neural_grain.dsp.contour import Seconds
from neural_grain.dsp.flatness import grain_per_frame
from neural_grain.dsp.settings import GrainSettings

SECONDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("curves")
    (path / "in").mkdir()
    for i, seconds in enumerate((SECONDS, SECONDS + 1)):
        sf.write(path / "in" / f"drone{i}.wav", drone(-45, seconds, seed=i), SR, "PCM_24")
    sf.write(path / "reference.wav", np.concatenate((drone(-52, 2.0), drone(-38, 2.0))), SR, "PCM_24")
    (path / "rise.txt").write_text("; texture first\n0, -1.5\n3, 1\n")
    return path


def render(folder: Path, *args: object, status: int = 0) -> Ran:
    ran = call("neural_audio_processor.py", *args, cwd=folder)
    assert ran.status == status, ran.err
    return ran


def grain_contour(path: Path) -> np.ndarray:
    sound, settings = open_sound(path), GrainSettings()
    return Seconds.of(sound, grain_per_frame(sound, settings).active, settings).grain


def test_a_file_follows_a_curve_and_the_report_says_so(folder):
    ran = render(folder, "in/drone0.wav", "--curve", "rise.txt", "-o", "rise.wav", "--json", "--report", "rise.png")
    (rendered,) = json.loads(ran.out)["rendered"]
    curve = rendered["curve"]
    assert curve["points"] == [[0.0, -1.5], [3.0, 1.0]]
    assert curve["states"] == ["moved"] * SECONDS
    measured = np.log2(grain_contour(folder / "in" / "drone0.wav") / grain_contour(folder / "rise.wav"))
    np.testing.assert_allclose(measured, curve["requested_octaves"], atol=0.06)
    np.testing.assert_allclose(measured, curve["achieved_octaves"], atol=0.02)
    assert sf.info(folder / "rise.wav").subtype == "PCM_24"
    from matplotlib.image import imread

    height, width = imread(folder / "rise.png").shape[:2]
    assert (width, height) == (1100, 800)


def test_a_report_can_name_any_file(folder, tmp_path):
    name = r"take $1 and \bad $2 日.wav"
    shutil.copy(folder / "in" / "drone0.wav", tmp_path / name)
    ran = render(tmp_path, name, "--gain", "1", "--report", "x.png")
    assert ran.err.splitlines()[1:] == ["wrote x.png"]


def test_a_sound_without_grain_is_reported_even_if_there_is_nothing_to_draw(tmp_path):
    sf.write(tmp_path / "silence.wav", np.zeros(SR), SR)
    ran = render(tmp_path, "silence.wav", "--gain", "1", "--report", "x.png", "--json", status=1)
    assert len(json.loads(ran.out)["rendered"]) == 1
    assert ran.err.endswith("silence.wav: nothing to draw, it has no grain\n")


def test_a_mix_along_a_curve_reports_its_own_seconds_and_the_states_of_the_wet_sound(folder):
    args = ("in/drone0.wav", "--curve", "rise.txt", "--mix", "40", "--gain", "-2", "--json", "--report", "mix.png")
    (rendered,) = json.loads(render(folder, *args, "-o", "mix.wav").out)["rendered"]
    assert (rendered["mix"], rendered["gain_db"]) == (40, -2)
    assert rendered["curve"]["states"] == ["moved"] * SECONDS
    measured = np.log2(grain_contour(folder / "in" / "drone0.wav") / grain_contour(folder / "mix.wav"))
    np.testing.assert_allclose(measured, rendered["curve"]["achieved_octaves"], atol=0.02)
    assert rendered["curve"]["requested_octaves"][0] + 0.3 < measured[0] < 0
    assert (folder / "mix.png").stat().st_size > 10_000


def test_a_batch_stretches_the_curve_to_each_file_and_is_continued(folder):
    args = ("in", "--curve", "rise.txt", "--curve-fit", "-o", "fit/")
    ran = render(folder, *args)
    assert "2 rendered" in ran.out
    for i in range(2):
        before, after = (
            grain_contour(folder / f"{place}{i}{end}.wav") for place, end in (("in/drone", ""), ("fit/drone", "_curve"))
        )
        octaves = np.log2(before / after)
        assert octaves[0] < -0.8
        assert octaves[-1] > 0.3
    assert "0 rendered, 2 unchanged" in render(folder, *args).out
    (folder / "rise2.txt").write_text("0 1\n1 -1\n")
    assert "2 rendered, 0 unchanged" in render(folder, "in", "--curve", "rise2.txt", "--curve-fit", "-o", "fit/").out


def test_an_oscillator_moves_around_a_position(folder):
    args = ("in/drone0.wav", "--lfo", "0.5:1:square", "--grain", "-0.5", "-o", "lfo.wav", "--json")
    (rendered,) = json.loads(render(folder, *args).out)["rendered"]
    np.testing.assert_allclose(rendered["curve"]["achieved_octaves"], [0.5, -1.5, 0.5], atol=0.08)


def test_a_sound_follows_the_contour_of_a_reference(folder):
    render(folder, "in/drone1.wav", "--match", "reference.wav", "--over-time", "-o", "contour.wav")
    np.testing.assert_allclose(
        np.log2(grain_contour(folder / "contour.wav") / grain_contour(folder / "reference.wav")), 0, atol=0.1
    )


def test_a_curve_of_zero_copies_the_file_and_a_constant_one_equals_the_position(folder):
    (folder / "zero.txt").write_text("0 0\n5 0\n")
    (folder / "constant.txt").write_text("0 -1\n5 -1\n")
    render(folder, "in/drone0.wav", "--curve", "zero.txt", "-o", "zero.wav")
    assert (folder / "zero.wav").read_bytes() == (folder / "in" / "drone0.wav").read_bytes()
    render(folder, "in/drone0.wav", "--curve", "constant.txt", "-o", "constant.wav")
    render(folder, "in/drone0.wav", "--grain", "-1", "-o", "position.wav")
    constant, position = (sf.read(folder / f"{name}.wav")[0] for name in ("constant", "position"))
    np.testing.assert_allclose(constant, position, atol=1e-4 * np.abs(position).max())


def test_the_layers_along_a_curve_add_up(folder):
    for layer in ("tones", "texture"):
        render(
            folder, "in/drone0.wav", "--curve", "rise.txt", "--layer", layer, "--subtype", "FLOAT", "-o", f"{layer}.wav"
        )
    render(folder, "in/drone0.wav", "--curve", "rise.txt", "--subtype", "FLOAT", "-o", "whole.wav")
    tones, texture, whole = (sf.read(folder / f"{name}.wav")[0] for name in ("tones", "texture", "whole"))
    np.testing.assert_allclose(tones + texture, whole, atol=1e-5)


def test_a_curve_beyond_the_end_of_the_sound_gives_a_warning(folder):
    (folder / "long.txt").write_text("0 -1\n20 1\n")
    assert (
        "the curve goes on to 20 s, the sound ends at 3.00 s"
        in render(folder, "in/drone0.wav", "--curve", "long.txt", "-o", "long.wav").err
    )


BAD = {
    ("--curve", "nowhere.txt"): "nowhere.txt: not readable",
    ("--curve", "/dev/zero"): "/dev/zero: not a file",
    ("--curve", "in"): "in: not readable",
    ("--curve", "in/drone0.wav"): "in/drone0.wav: not a text file",
    ("--curve", "order.txt"): "order.txt: line 2: the time 1 s does not come after 2 s",
    ("--curve", "beyond.txt"): "beyond.txt: line 1: the position 4 is not within -3 to +3",
    ("--curve-fit", "--grain", "1"): "--curve-fit stretches a curve",
    ("--over-time", "--grain", "1"): "--over-time follows a reference",
    ("--lfo", "1:1", "--target-grain", "0.1"): "--lfo moves around --grain",
    ("--lfo", "1"): "a rate in Hz and a depth",
    ("--lfo", "1:1:saw"): "shape='saw'",
    ("--lfo", "1e-9:1"): "rate_hz=1e-09 must be within 0.000001 to 20",
    ("--lfo", "1:1:random", "--seed", "-1"): "--seed: -1 is not a whole number from 0 to",
    ("--lfo", "1:1:random", "--seed", "x"): "x is not a whole number",
    ("--seed", "3", "--grain", "1"): "--seed is for a random --lfo",
    ("--grain", "1", "--report", "picture.jpg"): "let its name end with .png",
    ("--grain", "1", "--report", "taken.png"): "exists already",
    ("--sweep", "--report", "picture.png"): "draws one rendering, not 7",
    ("--report", "picture.png"): "only for rendering, not for the window",
}


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_bad_input_gives_one_line(folder, args):
    for name, text in (("order.txt", "2 1\n1 1\n"), ("beyond.txt", "0 4\n"), ("taken.png", "mine")):
        (folder / name).write_text(text)
    ran = render(folder, "in/drone0.wav", *args, "-o", "bad/", status=2)
    assert BAD[args] in ran.err
    assert (folder / "taken.png").read_text() == "mine"


class TestApi:
    def test_samples_follow_a_curve_given_as_points(self):
        y, processor = drone(-45, 3.0), GrainProcessor()
        z = processor.render(y, SR, curve=[(0, -1), (1, -1), (1.01, 0), (3, 0)])
        assert z.shape == y.shape
        assert processor.measure(z[:SR], SR) == pytest.approx(2 * processor.measure(y[:SR], SR), rel=0.1)
        np.testing.assert_allclose(z[2 * SR :], y[2 * SR :], atol=1e-4)

    def test_zero_returns_the_samples(self):
        y = drone(-45, 1.0)
        np.testing.assert_array_equal(GrainProcessor().render(y, SR, curve=[(0, 0), (1, 0)]), y)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ({}, "exactly one"),
            ({"grain": 1, "curve": [(0, 1)]}, "exactly one"),
            ({"curve": [(0, 5)]}, "position 5"),
            ({"curve": []}, "at least one"),
        ],
    )
    def test_what_is_no_request_is_refused(self, arguments, line):
        with pytest.raises(ValueError, match=line):
            GrainProcessor().render(drone(-45, 1.0), SR, **arguments)

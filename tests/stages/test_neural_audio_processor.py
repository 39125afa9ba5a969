"""Stage 4 as a user runs it: what it prints and writes, and one line for everything that can go wrong."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import BAD_FILES, ROOT, SR, Ran, call, drone, noise, run, write_bad_files

from measure_audio_grain import measure_file
from neural_audio_processor import DEMO_INPUT
from neural_grain.app.batch_log import BATCH_LOG
from neural_grain.app.processor import DEFAULT_MODEL
from neural_grain.dsp.settings import GrainSettings

HEADLESS = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "CUDA_VISIBLE_DEVICES": ""}  # no display and no graphics card
SCRIPTS = ("measure_audio_grain", "convert_to_spectrograms", "cak_grain_processor", "neural_audio_processor")


def grain_of(path: Path) -> float:
    return measure_file(path, GrainSettings()).grain


@pytest.fixture
def render(tmp_path):
    """Run stage 4 in ``tmp_path``, where there is no model."""

    def run_stage(*args: object) -> Ran:
        return call("neural_audio_processor.py", *args, cwd=tmp_path, env=HEADLESS)

    return run_stage


class TestModel:
    def test_without_one_the_built_in_pattern_works_without_torch_and_a_line_says_how_to_learn(self, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import neural_audio_processor as stage4\n"
            "assert stage4.main(['in.wav', '--grain', '1']) == 0 and 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        (line,) = done.stderr.splitlines()
        assert line.startswith("warning: nothing learned yet")
        assert all(f"{script}.py" in line for script in SCRIPTS[:3])
        assert "got x0.50" in done.stdout

    def test_rendering_with_one_on_the_cpu_needs_no_torch(self, project, tmp_path):
        """Importing torch takes longer than rendering ten seconds of sound."""
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None  # importing it fails\n"
            "import neural_audio_processor as stage4; arguments = ['in.wav', '--model', sys.argv[1], '--overwrite']\n"
            "for device in ('auto', 'cpu'):\n"
            "    for target in (['--grain', '-1'], ['--lfo', '1:1', '--report', f'{device}.png']):\n"
            "        assert stage4.main([*arguments, '--device', device, *target]) == 0"
        )
        command = [sys.executable, "-c", code, project.model]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_the_default_one_is_used_where_it_exists_and_earlier_renderings_are_then_outdated(
        self, render, project, tmp_path
    ):
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        args = ("in.wav", "--grain", "1", "-o", "out/")
        assert render(*args).status == 0
        (tmp_path / DEFAULT_MODEL).parent.mkdir()
        shutil.copy(project.model, tmp_path / DEFAULT_MODEL)
        for said in ("wrote out/in_grain+1.0.wav", "0 rendered, 1 unchanged"):
            ran = render(*args)
            assert (ran.status, ran.err) == (0, "")
            assert said in ran.out


class TestOneFile:
    def test_prints_requested_and_achieved_grain_and_writes_the_default_name(self, render, tmp_path):
        sf.write(tmp_path / "a sound.flac", drone(-40), SR, "PCM_24")
        ran = render("a sound.flac", "--grain", "-2")
        assert ran.status == 0, ran.err
        match = re.fullmatch(
            r"a sound\.flac: grain (\S+) -> (\S+) \(asked x4\.00, got x(\S+)\), only texture moved: \+\d+\.\d dB\n"
            r"wrote a sound_grain-2\.0\.wav\n",
            ran.out,
        )
        assert match, ran.out
        before, after, factor = map(float, match.groups())
        assert after / before == pytest.approx(factor, rel=0.01)
        assert factor == pytest.approx(4, rel=0.02)
        assert sf.info(tmp_path / "a sound_grain-2.0.wav").subtype == "PCM_24"

    def test_the_input_is_never_overwritten_and_other_files_only_on_request(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-40), SR)
        (tmp_path / "link.wav").symlink_to("in.wav")
        os.link(tmp_path / "in.wav", tmp_path / "hard.wav")
        (tmp_path / "other.wav").write_bytes(b"precious")
        source = (tmp_path / "in.wav").read_bytes()
        for output in ("in.wav", "link.wav", "hard.wav"):
            ran = render("in.wav", "--grain", "1", "-o", output, "--overwrite")
            assert ran.status == 2
            assert "is the input itself, which is never overwritten" in ran.err
        args = ("in.wav", "--grain", "1", "-o", "other.wav")
        ran = render(*args)
        assert ran.status == 2
        assert "other.wav: exists already; give --overwrite to replace it" in ran.err
        assert (tmp_path / "other.wav").read_bytes() == b"precious"
        assert render(*args, "--overwrite").status == 0
        assert (tmp_path / "in.wav").read_bytes() == source
        assert sf.info(tmp_path / "other.wav").frames == 3 * SR

    def test_a_request_out_of_reach_is_reported_as_such(self, render, tmp_path):
        sf.write(tmp_path / "noise.wav", noise(2), SR)
        ran = render("noise.wav", "--grain", "-3")
        assert ran.status == 0
        assert ": as far as this sound goes)" in ran.out

    def test_the_sample_format_can_be_chosen_and_tags_are_kept(self, render, tmp_path):
        with sf.SoundFile(tmp_path / "in.flac", "w", SR, 1, "PCM_16") as file:
            file.title, file.artist = "Long Drone", "Nobody"
            file.write(drone(-45))
        assert render("in.flac", "--grain", "1", "-o", "out.wav", "--subtype", "pcm_24").status == 0
        with sf.SoundFile(tmp_path / "out.wav") as file:
            assert (file.subtype, file.title, file.artist) == ("PCM_24", "Long Drone", "Nobody")

    def test_target_grain_and_match_reach_that_grain(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR, "PCM_24")
        sf.write(tmp_path / "like.wav", drone(-35, seed=3), SR)
        target = grain_of(tmp_path / "like.wav")
        ran = render("in.wav", "--match", "like.wav")
        assert ran.status == 0, ran.err
        name = re.search(r"wrote (in_grain.*\.wav)", ran.out)[1]
        assert grain_of(tmp_path / name) == pytest.approx(target, rel=0.02)
        assert render("in.wav", "--target-grain", target, "-o", "x.flac").status == 0
        assert grain_of(tmp_path / "x.flac") == pytest.approx(target, rel=0.02)


class TestSeveralOutputs:
    def test_bad_files_are_named_and_the_others_rendered(self, render, tmp_path):
        write_bad_files(tmp_path / "in")
        sf.write(tmp_path / "in" / "good.wav", drone(-40), SR)
        before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
        ran = render("in", "--grain", "1", "-o", "out/")
        assert ran.status == 1
        for name, reason in BAD_FILES.items():
            assert sum(f"{name}: {reason}" in line for line in ran.err.splitlines()) == 1, (name, ran.err)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_grain+1.0.wav", BATCH_LOG]
        assert before == {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}

    def test_a_sweep_lowers_grain_at_each_position(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR)
        ran = render("in.wav", "--sweep", "1.5", "-o", "out/")
        assert ran.status == 0, ran.err
        names = [f"in_grain{position}.wav" for position in ("-3.0", "-1.5", "+0.0", "+1.5", "+3.0")]
        grains = [grain_of(tmp_path / "out" / name) for name in names]
        assert np.all(np.diff(grains) < 0)
        assert "5 rendered" in ran.out

    def test_json_reports_octaves_and_grain_as_measured(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR)
        (tmp_path / "bad.wav").write_bytes(b"x")
        ran = render("in.wav", "bad.wav", "--grain", "-1", "-o", "out/", "--json")
        assert ran.status == 1
        report = json.loads(ran.out)
        (row,), (failure,) = report["rendered"], report["failed"]
        assert row["requested_octaves"] == -1
        assert row["achieved_octaves"] == pytest.approx(-1, abs=0.02)
        assert row["grain_after"] == pytest.approx(grain_of(tmp_path / row["output"]), rel=1e-6)
        assert math.log2(row["grain_before"] / row["grain_after"]) == pytest.approx(row["achieved_octaves"])
        assert row["within_reach"] is True
        assert row["texture_db"] > 1
        assert (row["expander_amount"], row["layer"]) == (0, None)
        assert failure["input"].endswith("bad.wav")

    def test_demo_replaces_no_file_of_the_user(self, render, tmp_path):
        source = tmp_path / "Harmonic Progression" / DEMO_INPUT
        source.parent.mkdir()
        sf.write(source, drone(-40, 1.0), SR)
        mine = tmp_path / "demo_harmonic_08_grain-2.0.wav"
        mine.write_bytes(b"mine")
        ran = render("--demo")
        assert (ran.status, mine.read_bytes()) == (1, b"mine")
        assert f"{mine.name}: exists already" in ran.err

    def test_formats_that_cannot_be_read_are_named_once(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45, 1.0), SR)
        for name in ("a.m4a", "b.wma"):
            (tmp_path / name).write_bytes(b"x")
        ran = render(".", "--grain", "0")
        assert ran.status == 0
        assert ran.err.count("warning: .m4a can't be read, left out: a.m4a; convert to WAV or FLAC first") == 1
        assert ran.err.count("b.wma") == 1

    def test_demo_without_a_display_renders_at_minus_and_plus_two(self, render, tmp_path):
        source = tmp_path / "Harmonic Progression" / DEMO_INPUT
        source.parent.mkdir()
        sf.write(source, drone(-40), SR)
        ran = render("--demo")
        assert ran.status == 0
        assert "0 rendered, 2 unchanged" in render("--demo").out
        for name, factor in (("demo_harmonic_08_grain-2.0.wav", 4), ("demo_harmonic_08_grain+2.0.wav", 0.25)):
            assert f"wrote {name}" in ran.out
            assert grain_of(tmp_path / name) / grain_of(source) == pytest.approx(factor, rel=0.02)


class TestLayers:
    def test_a_layer_of_the_sound_itself_and_of_a_rendering_are_named_and_reported(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        ran = render("in.wav", "--layer", "texture")
        assert (ran.status, ran.out) == (0, "in.wav: the texture of the sound as it is\nwrote in_texture.wav\n")
        ran = render("in.wav", "--grain", "1", "--layer", "tones")
        assert ran.out.startswith("in.wav: the tones of: grain ")
        assert ran.out.endswith("wrote in_grain+1.0_tones.wav\n")

    def test_batches_write_layers_beside_whole_renderings(self, render, tmp_path):
        (tmp_path / "in").mkdir()
        for name in ("a.wav", "b.wav"):
            sf.write(tmp_path / "in" / name, drone(-40, 0.5), SR)
        args = ("in", "--grain", "-1", "-o", "out/")
        assert render(*args).status == 0
        report = json.loads(render(*args, "--layer", "texture", "--json").out)
        assert [row["layer"] for row in report["rendered"]] == ["texture", "texture"]
        assert "0 rendered, 2 unchanged" in render(*args, "--layer", "texture").out
        assert "0 rendered, 2 unchanged" in render(*args).out
        names = {path.name for path in (tmp_path / "out").glob("*.wav")}
        assert names == {f"{stem}_grain-1.0{end}.wav" for stem in "ab" for end in ("", "_texture")}


class TestMix:
    def test_the_line_and_the_json_say_mix_gain_and_what_was_measured_on_the_file(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR, "PCM_24")
        args = ("in.wav", "--grain", "-2", "--mix", "50", "--gain", "-3")
        line, wrote = render(*args).out.splitlines()
        match = re.fullmatch(
            r"in\.wav: grain (\S+) -> (\S+) \(asked x4\.00, got x(\S+)\), only texture moved: \+\d+\.\d dB; "
            r"50 % wet, gain -3\.0 dB",
            line,
        )
        assert match, line
        before, after, factor = map(float, match.groups())
        assert wrote == "wrote in_grain-2.0_mix50_-3dB.wav"
        measured = grain_of(tmp_path / "in_grain-2.0_mix50_-3dB.wav")
        assert after == pytest.approx(measured, rel=0.01)
        assert factor == pytest.approx(after / before, rel=0.02)
        assert 1.5 < factor < 3.5
        (row,) = json.loads(render(*args, "--overwrite", "--json").out)["rendered"]
        assert (row["mix"], row["gain_db"], row["requested_octaves"]) == (50, -3, -2)
        assert row["grain_after"] == pytest.approx(measured, rel=1e-6)
        assert row["level_db"] == pytest.approx(-3, abs=0.5)

    def test_a_gain_alone_is_rendered_and_its_limiter_is_reported(self, render, tmp_path):
        y = np.float32(0.5 * drone(-45))
        sf.write(tmp_path / "in.wav", y, SR, "FLOAT")
        for args, gain in ((("--gain", "-6"), 10**-0.3), (("--gain", "2", "--mix", "0", "--grain", "2"), 10**0.1)):
            ran = render("in.wav", *args, "-o", "out.wav", "--overwrite")
            assert ran.status == 0, ran.err
            z, _ = sf.read(tmp_path / "out.wav", dtype="float32")
            np.testing.assert_allclose(z, gain * y, atol=1e-7)
            assert "limited" not in ran.out
        ran = render("in.wav", "--gain", "18", "-o", "loud.wav")
        assert f"peaks limited by {20 * math.log10(10**0.9 * np.abs(y).max()):.1f} dB" in ran.out
        assert 0.99 < np.abs(sf.read(tmp_path / "loud.wav")[0]).max() <= 1

    def test_a_mix_without_wet_is_the_file_itself(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR)
        assert render("in.wav", "--grain", "-2", "--mix", "0", "-o", "out.wav").status == 0
        assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "in.wav").read_bytes()

    def test_a_batch_keeps_its_mixes_apart_and_is_continued(self, render, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45, 1.0), SR)
        args = ("in.wav", "--sweep", "3", "-o", "out/")
        for mix in ((), ("--mix", "50"), ("--mix", "50", "--gain", "1")):
            assert "3 rendered, 0 unchanged" in render(*args, *mix).out
            assert "0 rendered, 3 unchanged" in render(*args, *mix).out
        assert len(list((tmp_path / "out").glob("*.wav"))) == 9


TOO_LONG = "x" * 300  # for a file name; like a disconnected drive, the system refuses to say whether it is there
NO_MODEL = "none.pt: no model there; make one with: python cak_grain_processor.py"
ERRORS = [
    (("in.wav", "--grain", "1", "--model", "none.pt"), NO_MODEL),
    (("--model", "none.pt"), NO_MODEL),
    (("in.wav", "--grain", "1", "--model", "cut.pt"), "cut.pt: not readable as a model"),
    (("in.wav", "--grain", "1", "--model", "in.wav"), "in.wav: not readable as a model"),
    (("gone.wav", "--grain", "1"), "gone.wav: no such file or folder"),
    ((TOO_LONG, "--grain", "1"), "not readable (File name too long)"),
    ((TOO_LONG,), f"{TOO_LONG}: no such file"),
    (("in.wav", "--grain", "1", "--model", TOO_LONG), "no model there"),
    (("in.wav", "--grain", "1", "-o", f"{TOO_LONG}.wav"), "the name is longer than 255 bytes"),
    (("in.wav", "--grain", "1", "-o", f"{TOO_LONG}/"), "can't write there (File name too long)"),
    (("--grain", "1"), "--grain needs an INPUT"),
    (("--layer", "tones"), "--layer needs an INPUT"),
    (("in.wav", "--layer", "noise"), "argument --layer: invalid choice: 'noise'"),
    (("in.wav", "--grain", "4"), "4 is not within -3 to +3"),
    (("in.wav", "--grain", "nan"), "nan is not within -3 to +3"),
    (("in.wav", "--grain", "1,5"), "argument --grain: 1,5 is not a number; write 1.5"),
    (("in.wav", "--grain", "-1,5"), "argument --grain: -1,5 is not a number; write -1.5"),
    (("in.wav", "--grain", "1", "--mix", "101"), "argument --mix: 101 is not within 0 to 100 percent"),
    (("in.wav", "--grain", "1", "--mix", "half"), "argument --mix: half is not a number"),
    (("in.wav", "--grain", "1", "--gain", "-25"), "argument --gain: -25 is not within -24 to +24 dB"),
    (("in.wav", "--gain", "nan"), "argument --gain: nan is not within -24 to +24 dB"),
    (("--gain", "3"), "--gain needs an INPUT"),
    (("--demo", "--mix", "50"), "--mix is for a rendering of yours; leave --demo out"),
    (("in.wav", "--mix", "50"), "--mix: only for rendering, not for the window; give one of --grain"),
    (("in.wav", "--target-grain", "much"), "argument --target-grain: much is not a number"),
    (("in.wav", "--sweep", "0,5"), "argument --sweep: 0,5 is not a number; write 0.5"),
    (("in.wav", "-o", "out/"), "--output: only for rendering, not for the window; give one of --grain, --target-grain"),
    (("--overwrite", "-j", "2", "--json"), "--overwrite --jobs --json: only for rendering"),
    (("in.wav", "--subtype", "FLOAT", "--dask", "localhost:1"), "--subtype --dask: only for rendering"),
    (("in.wav", "in.wav"), "the window opens one file"),
    (("in.wav", "zero.wav", "--grain", "1", "-o", "one.wav"), "2 outputs need a folder"),
    (("in.wav", "--grain", "1", "-o", "x.xyz"), "can't write .xyz; use one of"),
    (("in.wav", "--grain", "1", "-o", f"{'x' * 300}.wav"), "xxx.wav: the name is longer than 255 bytes"),
    (("in.wav", "--grain", "1", "--model", TOO_LONG), "xxx: no model there"),
    (("--curve-fit", "--over-time"), "--curve-fit --over-time: only for rendering"),
    (("in.wav", "--grain", "1", "-o", "/sys/x.wav"), "/sys: can't write there"),
    (("in.wav", "--grain", "1", "-o", "x.opus"), "can't write OGG OPUS with 1 channels at 44100 Hz"),
    (("--demo",), "make the demo library with: python measure_audio_grain.py --demo"),
    (("in.wav",), "no window: no display to show it on; render without one"),
    (("in.wav", "--grain", "1", "--model", "in.wav", "--device", "cuda"), "--device cuda: not available here"),
    (("in.wav", "--target-grain", "0"), "0 is no grain"),
    (("in.wav", "--sweep", "9"), "9 is not within 0.05 to 3 octaves"),
    (("in.wav", "--match", "none.wav"), "--match none.wav: not readable (No such file or directory)"),
    (("in.wav", "--grain", "1", "--sweep"), "not allowed with argument"),
    (("in.wav", "--grain", "1", "--subtype", "PCM_12"), "--subtype PCM_12: no such sample format"),
    (("in.wav", "--grain", "1", "-o", "x.flac", "--subtype", "FLOAT"), "x.flac: FLAC can't hold FLOAT"),
    (("in.wav", "--sweep", "-o", "x.wav"), "7 outputs need a folder"),
    (("in.wav", "sub/in.wav", "--grain", "1"), "would go there"),
    (("in.wav", "zero.wav", "--grain", "1", "-o", "zero.wav"), "2 outputs need a folder"),
    (("in.wav", "--match", "zero.wav", "-o", "zero.wav", "--overwrite"), "--match zero.wav: silent"),
    (("in.wav", "--match", "sub/in.wav", "-o", "sub/in.wav", "--overwrite"), "sub/in.wav: is an input of this run"),
]


@pytest.mark.parametrize(("args", "message"), ERRORS)
def test_an_error_is_one_line_with_status_2_and_writes_nothing(render, tmp_path, args, message):
    sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
    sf.write(tmp_path / "zero.wav", np.zeros(SR), SR)
    (tmp_path / "cut.pt").write_bytes(b"PK\3\4" + bytes(3000))
    (tmp_path / "sub").mkdir()
    shutil.copy(tmp_path / "in.wav", tmp_path / "sub" / "in.wav")
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = render(*args)
    assert ran.status == 2
    assert sum(message in line for line in ran.err.splitlines()) == 1, ran.err
    assert ran.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_shown_and_importing_a_script_does_nothing(tmp_path, script):
    ran = run(f"{script}.py", "--help", cwd=tmp_path)
    assert ran.status == 0
    assert ran.out.startswith("usage:")
    done = subprocess.run(
        [sys.executable, "-c", f"import {script}, sys; assert 'torch' not in sys.modules"],
        cwd=tmp_path,
        env={**os.environ, **HEADLESS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not list(tmp_path.iterdir())

"""TODO"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
from conftest import BAD_FILES, SR, drone, noise, run, write_bad_files

import neural_audio_processor as stage4
from measure_audio_grain import measure_file
from neural_grain.app import batch as app_batch
from neural_grain.app.processor import RenderTarget, output_name
from neural_grain.dsp.settings import GrainSettings

NO_DISPLAY = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}


def grain_of(path) -> float:
    return measure_file(path, GrainSettings()).grain


class TestCommand:
    def test_says_asked_and_got_and_writes_the_default_name(self, project, tmp_path):
        sf.write(tmp_path / "a sound.flac", drone(-40), SR, "PCM_24")
        ran = run("neural_audio_processor.py", "a sound.flac", "--grain", "-2", "--model", project.model, cwd=tmp_path)
        assert ran.status == 0, ran.err
        match = re.fullmatch(
            r"a sound\.flac: grain (\S+) -> (\S+) \(asked x4\.00, got x(\S+)\)\nwrote a sound_grain-2\.0\.wav\n",
            ran.out,
        )
        assert match, ran.out
        before, after, got = map(float, match.groups())
        assert after / before == pytest.approx(got, rel=0.01)
        assert got == pytest.approx(4, rel=0.02)
        assert sf.info(tmp_path / "a sound_grain-2.0.wav").subtype == "PCM_24"

    @pytest.mark.parametrize(
        ("octaves", "name"), [(-2.0, "x_grain-2.0.wav"), (0.25, "x_grain+0.25.wav"), (3.0, "x_grain+3.0.wav")]
    )
    def test_names(self, tmp_path, octaves, name):
        assert output_name(tmp_path / "x.mp3", RenderTarget(octaves)) == name

    def test_several_inputs_go_to_a_folder_past_bad_ones(self, project, tmp_path):
        write_bad_files(tmp_path / "in")
        sf.write(tmp_path / "in" / "good.wav", drone(-40), SR)
        before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
        ran = run(
            "neural_audio_processor.py", "in", "--grain", "1", "-o", "out/", "--model", project.model, cwd=tmp_path
        )
        assert ran.status == 1
        for name, reason in BAD_FILES.items():
            assert sum(f"{name}: {reason}" in line for line in ran.err.splitlines()) == 1, (name, ran.err)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_grain+1.0.wav", app_batch.BATCH_LOG]
        assert before == {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}

    def test_never_overwrites_the_input_and_others_only_with_leave(self, project, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-40), SR)
        (tmp_path / "link.wav").symlink_to("in.wav")
        os.link(tmp_path / "in.wav", tmp_path / "hard.wav")
        (tmp_path / "other.wav").write_bytes(b"precious")
        source = (tmp_path / "in.wav").read_bytes()
        for output in ("in.wav", "link.wav", "hard.wav"):
            args = ("in.wav", "--grain", "1", "-o", output, "--overwrite", "--model", project.model)
            ran = run("neural_audio_processor.py", *args, cwd=tmp_path)
            assert ran.status == 2
            assert "is the input itself, which is never overwritten" in ran.err
        args = ("in.wav", "--grain", "1", "-o", "other.wav", "--model", project.model)
        ran = run("neural_audio_processor.py", *args, cwd=tmp_path)
        assert ran.status == 2
        assert "other.wav: exists already; give --overwrite to replace it" in ran.err
        assert (tmp_path / "other.wav").read_bytes() == b"precious"
        assert run("neural_audio_processor.py", *args, "--overwrite", cwd=tmp_path).status == 0
        assert (tmp_path / "in.wav").read_bytes() == source
        assert sf.info(tmp_path / "other.wav").frames == 3 * SR

    def test_beyond_the_reach_is_said(self, project, tmp_path):
        sf.write(tmp_path / "noise.wav", noise(2), SR)
        ran = run("neural_audio_processor.py", "noise.wav", "--grain", "-3", "--model", project.model, cwd=tmp_path)
        assert ran.status == 0
        assert ": as far as this sound goes)" in ran.out

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (
                ("in.wav", "--grain", "1", "--model", "none.pt"),
                "none.pt: no model there yet; make one with: python cak_grain_processor.py",
            ),
            (("--model", "none.pt"), "none.pt: no model there yet; make one with: python cak_grain_processor.py"),
            (("in.wav", "--grain", "1", "--model", "cut.pt"), "cut.pt: not readable as a model"),
            (("in.wav", "--grain", "1", "--model", "in.wav"), "in.wav: not readable as a model"),
            (("gone.wav", "--grain", "1"), "gone.wav: no such file or folder"),
            (("--grain", "1"), "--grain needs an INPUT"),
            (("in.wav", "--grain", "4"), "4 is not within -3 to +3"),
            (("in.wav", "--grain", "nan"), "nan is not within -3 to +3"),
            (("in.wav", "in.wav"), "the window opens one file"),
            (("in.wav", "zero.wav", "--grain", "1", "-o", "one.wav"), "2 outputs need a folder"),
            (("in.wav", "--grain", "1", "-o", "x.xyz"), "can't write .xyz; use one of"),
            (("in.wav", "--grain", "1", "-o", "/sys/x.wav"), "/sys: can't write there"),
            (("in.wav", "--grain", "1", "-o", "x.opus"), "can't write OGG OPUS with 1 channels at 44100 Hz"),
            (("--demo",), "make the demo library with: python measure_audio_grain.py --demo"),
            (("in.wav",), "no window: no display to show it on; render without one"),
            (("in.wav", "--grain", "1", "--device", "cuda"), "--device cuda: not available here"),
        ],
    )
    def test_errors_are_one_line_with_status_2(self, project, tmp_path, args, message):
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        sf.write(tmp_path / "zero.wav", np.zeros(SR), SR)
        (tmp_path / "cut.pt").write_bytes(project.model.read_bytes()[:3000])
        if "--model" not in args:
            args = (*args, "--model", project.model)
        before = sorted(path.name for path in tmp_path.iterdir())
        ran = run("neural_audio_processor.py", *args, cwd=tmp_path, env=NO_DISPLAY)
        assert ran.status == 2
        assert sum(message in line for line in ran.err.splitlines()) == 1, ran.err
        assert ran.out == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    def test_demo_without_a_display_renders_at_minus_and_plus_two(self, project, tmp_path):
        (tmp_path / "Harmonic Progression").mkdir()
        sf.write(tmp_path / "Harmonic Progression" / stage4.DEMO_INPUT, drone(-40), SR)
        ran = run("neural_audio_processor.py", "--demo", "--model", project.model, cwd=tmp_path, env=NO_DISPLAY)
        assert ran.status == 0
        for name, factor in (("demo_harmonic_08_grain-2.0.wav", 4), ("demo_harmonic_08_grain+2.0.wav", 0.25)):
            assert f"wrote {name}" in ran.out
            ratio = grain_of(tmp_path / name) / grain_of(tmp_path / "Harmonic Progression" / stage4.DEMO_INPUT)
            assert ratio == pytest.approx(factor, rel=0.02)

    @pytest.mark.parametrize(
        "script", ["measure_audio_grain", "convert_to_spectrograms", "cak_grain_processor", "neural_audio_processor"]
    )
    def test_help_and_import_do_nothing(self, tmp_path, script):
        ran = run(f"{script}.py", "--help", cwd=tmp_path)
        assert ran.status == 0
        assert ran.out.startswith("usage:")
        (tmp_path / "importing.py").write_text(
            f"import sys; sys.path.insert(0, {str(stage4.__file__.rsplit('/', 1)[0])!r}); import {script}"
        )
        shutil.copy(tmp_path / "importing.py", tmp_path / "importing2.py")
        done = subprocess.run(
            [sys.executable, "importing.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, **NO_DISPLAY},
            check=True,
        )
        assert (done.stdout, done.stderr) == ("", "")


class TestWaysToAsk:
    def test_target_grain_and_match_reach_that_grain(self, project, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR, "PCM_24")
        sf.write(tmp_path / "like.wav", drone(-35, seed=3), SR)
        wanted = grain_of(tmp_path / "like.wav")
        ran = run("neural_audio_processor.py", "in.wav", "--match", "like.wav", "--model", project.model, cwd=tmp_path)
        assert ran.status == 0, ran.err
        name = re.search(r"wrote (in_grain.*\.wav)", ran.out)[1]
        assert grain_of(tmp_path / name) == pytest.approx(wanted, rel=0.02)
        args = ("in.wav", "--target-grain", wanted, "-o", "x.flac", "--model", project.model)
        assert run("neural_audio_processor.py", *args, cwd=tmp_path).status == 0
        assert grain_of(tmp_path / "x.flac") == pytest.approx(wanted, rel=0.02)

    def test_a_sweep_is_monotone_and_named_by_grain(self, project, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR)
        ran = run(
            "neural_audio_processor.py",
            "in.wav",
            "--sweep",
            "1.5",
            "-o",
            "out/",
            "--model",
            project.model,
            cwd=tmp_path,
        )
        assert ran.status == 0, ran.err
        names = [f"in_grain{text}.wav" for text in ("-3.0", "-1.5", "+0.0", "+1.5", "+3.0")]
        grains = [grain_of(tmp_path / "out" / name) for name in names]
        assert np.all(np.diff(grains) < 0)
        assert "5 rendered" in ran.out

    def test_json_reports_what_the_lines_say(self, project, tmp_path):
        sf.write(tmp_path / "in.wav", drone(-45), SR)
        (tmp_path / "bad.wav").write_bytes(b"x")
        args = ("in.wav", "bad.wav", "--grain", "-1", "-o", "out/", "--json", "--model", project.model)
        ran = run("neural_audio_processor.py", *args, cwd=tmp_path)
        assert ran.status == 1
        report = json.loads(ran.out)
        (row,), (failure,) = report["rendered"], report["failed"]
        assert row["achieved_octaves"] == pytest.approx(-1, abs=0.02)
        assert row["grain_after"] == pytest.approx(grain_of(tmp_path / row["output"]), rel=1e-6)
        assert row["within_reach"] is True
        assert failure["input"].endswith("bad.wav")

    def test_subtype_and_tags(self, project, tmp_path):
        with sf.SoundFile(tmp_path / "in.flac", "w", SR, 1, "PCM_16") as file:
            file.title, file.artist = "Long Drone", "Nobody"
            file.write(drone(-45))
        args = ("in.flac", "--grain", "1", "-o", "out.wav", "--subtype", "pcm_24", "--model", project.model)
        assert run("neural_audio_processor.py", *args, cwd=tmp_path).status == 0
        with sf.SoundFile(tmp_path / "out.wav") as file:
            assert (file.subtype, file.title, file.artist) == ("PCM_24", "Long Drone", "Nobody")

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("in.wav", "--target-grain", "0"), "0 is no grain"),
            (("in.wav", "--sweep", "9"), "9 is not within 0.05 to 3 octaves"),
            (("in.wav", "--match", "none.wav"), "--match none.wav: not readable (No such file or directory)"),
            (("in.wav", "--grain", "1", "--sweep"), "not allowed with argument"),
            (("in.wav", "--grain", "1", "--subtype", "PCM_12"), "--subtype PCM_12: no such sample format"),
            (("in.wav", "--grain", "1", "-o", "x.flac", "--subtype", "FLOAT"), "x.flac: FLAC can't hold FLOAT"),
            (("in.wav", "--sweep", "-o", "x.wav"), "7 outputs need a folder"),
            (("in.wav", "sub/in.wav", "--grain", "1"), "would go there"),
        ],
    )
    def test_what_can_not_be_asked_is_one_line(self, project, tmp_path, args, message):
        sf.write(tmp_path / "in.wav", drone(-40, 1.0), SR)
        (tmp_path / "sub").mkdir()
        shutil.copy(tmp_path / "in.wav", tmp_path / "sub" / "in.wav")
        ran = run("neural_audio_processor.py", *args, "--model", project.model, cwd=tmp_path)
        assert ran.status == 2
        assert sum(message in line for line in ran.err.splitlines()) == 1, ran.err

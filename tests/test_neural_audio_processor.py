"""Stage 4: 0 is bit for bit, the law holds in files, the input is never touched, faults are one line."""

from __future__ import annotations

import doctest
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile as sf
from conftest import BAD_FILES, SR, FakeDevice, drone, noise, run, sine, write_bad_files

import neural_audio_processor as stage4
from measure_audio_grain import GrainSettings, measure_file, sound_from_array
from neural_audio_processor import (
    Asked,
    GrainProcessor,
    Mixer,
    Player,
    Worker,
    native_dtype,
    output_name,
    to_sample_format,
)

NO_DISPLAY = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}


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
        processor.render_file(source, output, Asked(0.0))
        dtype = native_dtype(subtype)
        before, after = (sf.read(path, dtype=dtype, always_2d=True) for path in (source, output))
        assert after[1] == before[1]
        np.testing.assert_array_equal(after[0], before[0])
        if subtype not in ("VORBIS", "MPEG_LAYER_III", "PCM_S8", "PCM_U8"):
            assert sf.info(output).subtype == subtype

    def test_gives_silence_back_too(self, processor, tmp_path):
        sf.write(tmp_path / "zeros.wav", np.zeros(1000), SR)
        assert processor.render_file(tmp_path / "zeros.wav", tmp_path / "out.wav", Asked(0.0)).rendering is None
        assert (tmp_path / "zeros.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


class TestSampleFormats:
    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
    def test_writing_is_the_exact_inverse_of_reading(self, tmp_path, subtype):
        rng = np.random.default_rng(0)
        sf.write(tmp_path / "a.wav", rng.uniform(-1, 1, 5000), SR, subtype)
        y, _ = sf.read(tmp_path / "a.wav", dtype="float64")
        sf.write(tmp_path / "b.wav", to_sample_format(y, subtype), SR, subtype)
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    def test_what_is_too_loud_is_held_at_full_scale(self):
        np.testing.assert_array_equal(to_sample_format(np.array([2.0, -2.0]), "PCM_16"), [32767, -32768])
        np.testing.assert_array_equal(to_sample_format(np.array([2.0, -2.0]), "PCM_24"), [(2**23 - 1) << 8, -(2**31)])


class TestLaw:
    @pytest.mark.parametrize("octaves", [-2.0, -0.5, 1.0])
    @pytest.mark.parametrize(
        ("subtype", "sr", "channels"), [("PCM_16", 44_100, 1), ("PCM_24", 96_000, 2), ("FLOAT", 22_050, 6)]
    )
    def test_holds_in_the_file_that_was_written(self, processor, tmp_path, octaves, subtype, sr, channels):
        source, output = tmp_path / "in.wav", tmp_path / "out.wav"
        sf.write(source, np.stack([drone(-45, sr=sr, seed=i) / (i + 1) for i in range(channels)], axis=1), sr, subtype)
        result = processor.render_file(source, output, Asked(octaves)).rendering
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
        rendering = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", Asked(2.0)).rendering
        z, _ = sf.read(tmp_path / "out.wav", dtype="int16")
        at_full_scale = np.flatnonzero(np.abs(z.astype(int)) >= 32767)
        assert np.all(np.diff(at_full_scale) > 10_000)  # each of the eight strokes may touch it once, none is cut off
        assert rendering.got_octaves == pytest.approx(2.0, abs=0.02)


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
        assert output_name(tmp_path / "x.mp3", Asked(octaves)) == name

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
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_grain+1.0.wav", stage4.BATCH_LOG]
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
        assert row["got_octaves"] == pytest.approx(-1, abs=0.02)
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


class TestMixer:
    """What is heard, block by block, without a device and without a clock."""

    BLOCK = 300

    @pytest.fixture
    def solver(self, processor):
        y = np.stack([drone(-45, 3.0), drone(-40, 3.0, seed=1)], axis=1).astype(np.float32)
        return processor.solver(sound_from_array(y, SR))

    @pytest.fixture
    def mixer(self, solver):
        y = np.concatenate(list(solver.analysis.sound.blocks()))
        return Mixer(y, SR, solver)

    def hear(self, mixer, n_blocks, each=lambda i: None) -> np.ndarray:
        heard = []
        for i in range(n_blocks):
            each(i)
            while mixer.prepare():
                pass
            block = np.zeros((self.BLOCK, 2), np.float32)
            mixer.fill(block)
            heard.append(block)
        return np.concatenate(heard)

    @pytest.mark.parametrize("which", ["before", "after", "difference"])
    def test_what_is_heard_is_what_is_rendered(self, mixer, solver, which):
        amounts = solver.about(-1.5)
        mixer.want(amounts)
        mixer.listen(which)
        mixer.play()
        heard = self.hear(mixer, 100)
        after = np.concatenate(list(solver.render(amounts)))[: len(heard)]
        before = mixer.y[: len(heard)]
        expected = {"before": before, "after": after, "difference": after - before}[which]
        fade = mixer._fade_samples
        np.testing.assert_allclose(heard[fade:], expected[fade:], atol=3e-6)
        assert mixer.underruns == 0

    def test_at_zero_after_is_before_to_the_bit(self, mixer):
        mixer.play()
        heard = self.hear(mixer, 50)
        fade = mixer._fade_samples
        np.testing.assert_array_equal(heard[fade:], mixer.y[fade : len(heard)])

    def steepest(self, y: np.ndarray) -> float:
        return float(np.abs(np.diff(y, axis=0)).max())

    def test_switching_and_sliding_make_no_step(self, mixer, solver):
        mixer.want(solver.about(-1.5))
        mixer.play()
        self.hear(mixer, 5)
        rng = np.random.default_rng(0)

        def disturb(i: int) -> None:
            if i % 3 == 0:
                mixer.listen(("before", "after")[i // 3 % 2])
            mixer.want(solver.about(float(rng.uniform(-1.5, 1.5)) or 1.0))

        heard = self.hear(mixer, 150, disturb)
        natural = max(self.steepest(np.concatenate(list(solver.render(solver.about(s))))) for s in (-1.5, 1.5))
        fade_slope = 2 * np.abs(heard).max() / mixer._fade_samples
        assert self.steepest(heard) < natural + fade_slope
        assert mixer.underruns == 0

    def test_each_move_is_heard_as_it_is_rendered_and_joined_by_a_straight_fade(self, mixer, solver):
        moves = [solver.about(octaves) for octaves in (-1.5, 0.7, 2.0, -0.4)]
        mixer.play()

        def disturb(i: int) -> None:
            mixer.want(moves[i // 20])
            mixer.listen("before" if i // 10 % 2 else "after")

        heard = self.hear(mixer, 80, disturb)
        after = [np.concatenate(list(solver.render(amounts))) for amounts in moves]
        old, fade = np.zeros_like(mixer.y), mixer._fade_samples
        rise = (np.arange(1, fade + 1) / fade)[:, None]
        for turn in range(8):
            new = mixer.y if turn % 2 else after[turn // 2]
            start, stop = 10 * turn * self.BLOCK, 10 * (turn + 1) * self.BLOCK
            expected = new[start:stop].copy()
            expected[:fade] = rise * expected[:fade] + (1 - rise) * old[start : start + fade]
            np.testing.assert_allclose(heard[start:stop], expected, atol=3e-6)
            old = new
        assert mixer.underruns == 0

    def test_moves_that_come_faster_than_they_are_rendered_never_leave_it_without_samples(self, mixer, solver):
        moves = [solver.about(1.0 + i / 100) for i in range(101)]
        mixer.want(moves[0])
        mixer.play()
        self.hear(mixer, 2)
        heard = []
        for i in range(100):
            mixer.want(moves[i])
            mixer.prepare()
            mixer.want(moves[i + 1])  # already another when the block is due
            mixer.fill(np.zeros((self.BLOCK, 2), np.float32))
            heard.append(mixer._heard.amounts)
        assert mixer.underruns == 0
        assert heard[-1] in moves[-4:]

    def test_a_loop_is_exact_and_its_join_fades(self, mixer, solver):
        start, stop = 20_000, 31_111
        mixer.want(solver.about(1.0))
        mixer.loop((start, stop))
        mixer.seek(start)
        mixer.play()
        heard = self.hear(mixer, 120)
        after = np.concatenate(list(solver.render(solver.about(1.0))))
        fade, length = mixer._fade_samples, stop - start
        for turn in range(3):
            part = heard[turn * length + fade : (turn + 1) * length]
            np.testing.assert_allclose(part, after[start + fade : stop], atol=3e-6)
        assert mixer.underruns == 0

    def test_seeking_while_it_plays_goes_there_with_a_fade(self, mixer, solver):
        mixer.want(solver.about(-1.0))
        mixer.play()
        self.hear(mixer, 10)
        mixer.seek(80_000)
        heard = self.hear(mixer, 20)
        after = np.concatenate(list(solver.render(solver.about(-1.0))))
        fade = mixer._fade_samples
        np.testing.assert_allclose(heard[fade:], after[80_000 + fade : 80_000 + len(heard)], atol=3e-6)

    def test_it_ends_at_the_end_and_starts_anew(self, mixer):
        mixer.seek(len(mixer.y) - 1000)
        mixer.play()
        heard = self.hear(mixer, 10)
        assert not mixer.is_playing
        assert np.abs(heard[2000:]).max() == 0
        mixer.play()
        self.hear(mixer, 2)
        assert mixer.position == 2 * self.BLOCK

    def test_pausing_fades_to_silence(self, mixer):
        mixer.play()
        self.hear(mixer, 5)
        mixer.pause()
        heard = self.hear(mixer, 5)
        assert mixer.is_silent
        assert np.abs(heard[mixer._fade_samples :]).max() == 0
        assert self.steepest(heard) < self.steepest(mixer.y) + 2 / mixer._fade_samples

    def test_a_stream_in_real_time_never_waits_while_the_slider_moves(self, mixer, solver):
        device = FakeDevice()
        player = Player(device)
        mixer.loop((0, len(mixer.y) - 1))
        mixer.want(solver.about(1.0))
        assert player.play(mixer) == ""
        until = time.monotonic() + 5
        i = 0
        while time.monotonic() < until:
            i += 1
            mixer.want(solver.about(2.5 * math.sin(i / 20) or 0.1))
            time.sleep(0.016)
        player.close()
        heard = np.concatenate(device.streams[0].heard)
        assert len(heard) > 4 * SR
        assert mixer.underruns == 0
        assert device.streams[0].closed
        loud = np.sqrt(np.mean(heard[SR // 10 : -SR // 10].reshape(-1, 2) ** 2))
        assert loud == pytest.approx(np.sqrt(np.mean(mixer.y**2)), rel=0.2)
        assert self.steepest(heard) < 3 * self.steepest(mixer.y) + 2 / mixer._fade_samples


class TestBatch:
    @pytest.fixture
    def library(self, tmp_path):
        for name in ("a.wav", "x/b.wav", "x/y/c.flac"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            sf.write(tmp_path / "in" / name, drone(-45, 1.0, seed=len(name)), SR)
        return tmp_path

    def render(self, library, project, *more):
        args = ("in", "--grain", "-1", "-o", "out/", "-j", 2, "--model", project.model, *more)
        return run("neural_audio_processor.py", *args, cwd=library)

    def test_keeps_the_tree_and_a_second_run_does_only_what_changed(self, library, project):
        assert "3 rendered, 0 unchanged" in self.render(library, project).out
        outputs = [library / "out" / name for name in ("a_grain-1.0.wav", "x/b_grain-1.0.wav", "x/y/c_grain-1.0.wav")]
        sources = [library / "in" / name for name in ("a.wav", "x/b.wav", "x/y/c.flac")]
        for source, path in zip(sources, outputs, strict=True):
            assert math.log2(grain_of(path) / grain_of(source)) == pytest.approx(1, abs=0.02)
        sf.write(library / "in" / "a.wav", drone(-35, 1.0), SR)  # the input changed
        outputs[1].unlink()  # the output is gone
        before = outputs[2].stat().st_mtime_ns
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        assert "2 rendered, 1 unchanged since the last run, 0 failed" in ran.out
        assert outputs[2].stat().st_mtime_ns == before

    def test_what_is_not_ours_is_not_replaced(self, library, project):
        (library / "out").mkdir()
        (library / "out" / "a_grain-1.0.wav").write_bytes(b"mine")
        ran = self.render(library, project)
        assert ran.status == 1
        assert "a_grain-1.0.wav: exists already" in ran.err
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"mine"
        self.render(library, project)
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"mine"

    def test_a_rendering_that_was_changed_by_hand_is_not_replaced(self, library, project):
        self.render(library, project)
        (library / "out" / "a_grain-1.0.wav").write_bytes(b"edited")
        assert self.render(library, project).status == 1
        assert (library / "out" / "a_grain-1.0.wav").read_bytes() == b"edited"

    def test_goes_on_after_kill_9(self, library, project):
        log = library / "out" / stage4.BATCH_LOG
        process = subprocess.Popen(
            [sys.executable, str(stage4.__file__), "in", "--grain", "-1", "-o", "out/", "--model", str(project.model)],
            cwd=library,
            stderr=subprocess.DEVNULL,
        )
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        process.kill()
        process.wait()
        ran = self.render(library, project)
        assert ran.status == 0, ran.err
        assert sorted(path.name for path in (library / "out").rglob("*.wav") if path.name[0] != ".") == [
            "a_grain-1.0.wav",
            "b_grain-1.0.wav",
            "c_grain-1.0.wav",
        ]


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
            tmp_path / "tone.wav", tmp_path / "out.wav", Asked(octaves), overwrite=True
        ).rendering
        assert rendering.within_reach is False or rendering.got_octaves == pytest.approx(octaves, abs=0.05)
        assert sf.info(tmp_path / "out.wav").frames == 2 * SR


@pytest.mark.parametrize("is_left", [False, True])
def test_a_measurement_is_given_up_when_its_position_is_left(project, tmp_path, is_left):
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(drone(-40), 30), SR, "PCM_16")
    worker = Worker(project.model, "cpu")

    def content_of(kind: str):
        while (message := worker.messages.get(timeout=60)).kind != kind:
            assert message.kind in ("model", "progress", "looked"), message
        return message.content

    try:
        worker.open(path)
        worker.render(content_of("opened"), 1.0)
        if is_left:
            worker.forget()
        assert (content_of("rendered") is None) == is_left
    finally:
        worker.close()

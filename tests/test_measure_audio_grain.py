"""Stage 1: grain is what librosa says, the five traps are closed, and metadata.json keeps its contract."""

from __future__ import annotations

import json
import math
import os

import librosa
import numpy as np
import pytest
import soundfile as sf
from conftest import BAD_FILES, SR, drone, noise, run, sine, write_bad_files, write_library
from scipy.signal import butter, resample_poly, sosfilt

import measure_audio_grain as stage1
from measure_audio_grain import (
    GrainSettings,
    PipelineError,
    find_audio,
    measure_grain,
    sound_from_array,
    spectral_flatness,
)

SETTINGS = GrainSettings()


def grain_of(y: np.ndarray, sr: int = SR) -> float:
    return measure_grain(sound_from_array(y, sr))


def slow_grain(y: np.ndarray, sr: int) -> float:
    """Grain by librosa alone, from the definition: scaled to the loudest bin, 50 Hz to 15 kHz, frames within 40 dB."""
    n_fft = {22_050: 1024, 44_100: 2048, 48_000: 2048, 96_000: 4096}[sr]
    channels = np.atleast_2d(y.T)
    D = librosa.stft(channels, n_fft=n_fft, hop_length=n_fft // 4, center=False)
    hz = librosa.fft_frequencies(sr=sr, n_fft=n_fft)
    P = np.mean(np.abs(D) ** 2, axis=0)[(hz >= 50) & (hz <= 15_000)]
    flatness = librosa.feature.spectral_flatness(S=np.sqrt(P / P.max()), amin=1e-10)[0]
    energy = P.sum(axis=0)
    return float(flatness[energy >= energy.max() * 1e-4].mean())


class TestFlatness:
    def test_equals_librosa_on_the_same_powers(self):
        P = np.random.default_rng(0).exponential(size=(50, 697)) ** 3
        expected = librosa.feature.spectral_flatness(S=np.sqrt(P / P.max()).T, amin=1e-10)[0]
        np.testing.assert_allclose(spectral_flatness(P, P.max(), -100.0), expected, atol=1e-6)

    @pytest.mark.parametrize("sr", [22_050, 44_100, 48_000, 96_000])
    def test_of_a_file_equals_a_slow_version_made_of_librosa(self, sr):
        y = np.stack([drone(-40, 1.5, sr), drone(-30, 1.5, sr, seed=5)], axis=1)
        assert grain_of(y, sr) == pytest.approx(slow_grain(y, sr), rel=1e-4, abs=1e-6)

    def test_of_equal_powers_is_one(self):
        np.testing.assert_allclose(spectral_flatness(np.ones((3, 100)), 1.0, -100.0), 1.0, atol=1e-6)

    def test_of_one_bin_among_k_is_the_closed_form(self):
        P = np.full((1, 100), 1e-30)
        P[0, 7] = 1.0
        expected = 1e-10**0.99 / ((1 + 99e-10) / 100)
        assert spectral_flatness(P, 1.0, -100.0)[0] == pytest.approx(expected, rel=1e-4)

    def test_of_white_noise_is_exp_minus_euler_gamma(self):
        assert grain_of(noise(20)) == pytest.approx(math.exp(-np.euler_gamma), abs=0.005)

    def test_peak_must_be_positive(self):
        with pytest.raises(ValueError, match="peak=0"):
            spectral_flatness(np.ones((1, 2)), 0.0, -100.0)


class TestFiveTraps:
    def test_silence_does_not_count(self):
        tone = sine(440, 2)
        assert grain_of(np.concatenate([tone, np.zeros(2 * SR)])) < 1e-5  # 0.49 with the plain formula

    def test_quiet_decay_does_not_count(self):
        loud, quiet = drone(-40), noise(3, level=1e-4)
        assert grain_of(np.concatenate([loud, quiet])) == pytest.approx(grain_of(loud), rel=0.1)

    @pytest.mark.parametrize("gain_db", [-40, -20, 6])
    def test_level_does_not_change_grain(self, gain_db):
        y = sosfilt(butter(8, 14_000, output="sos", fs=SR), noise(2))
        assert grain_of(y * 10 ** (gain_db / 20)) == pytest.approx(grain_of(y), rel=0.01)

    def test_an_empty_top_does_not_change_grain(self):
        y = noise(4)
        lossy = sosfilt(butter(20, 16_000, output="sos", fs=SR), y)
        assert grain_of(lossy) == pytest.approx(grain_of(y), rel=0.05)

    def test_an_upsampled_file_keeps_its_grain(self):
        y = noise(4, 44_100)
        assert grain_of(resample_poly(y, 2, 1), 88_200) == pytest.approx(grain_of(y), rel=0.05)

    def test_the_rate_does_not_change_grain(self):
        y = drone(-40, 4, 96_000) + drone(-50, 4, 96_000, root_hz=273)
        at = {
            96_000: grain_of(y, 96_000),
            48_000: grain_of(resample_poly(y, 1, 2), 48_000),
            44_100: grain_of(resample_poly(y, 147, 320), 44_100),
        }
        assert max(at.values()) / min(at.values()) < 1.05, at

    def test_n_fft_holds_the_window_near_46_ms(self):
        assert [SETTINGS.n_fft_for(sr) for sr in (8_000, 22_050, 44_100, 48_000, 96_000, 192_000)] == [
            512,
            1024,
            2048,
            2048,
            4096,
            8192,
        ]

    def test_channels_in_opposite_phase_do_not_cancel(self):
        y = drone(-40)
        assert grain_of(np.stack([y, -y], axis=1)) == pytest.approx(grain_of(y), rel=1e-3)


class TestStreaming:
    def test_a_long_file_is_measured_as_if_in_one_piece(self, monkeypatch):
        y = np.concatenate([drone(-60, 2), drone(-20, 2) * 3])
        whole = grain_of(y)
        monkeypatch.setattr(stage1, "KEEP_FRAMES", 1)  # now it goes through the sound twice
        assert grain_of(y) == pytest.approx(whole, rel=1e-6)

    @pytest.mark.parametrize("sizes", [[100], [2048, 1], [33_000], [7, 50_000]])
    def test_frames_do_not_depend_on_the_blocks_they_come_in(self, sizes):
        y = noise(1.0)[:, None].astype(np.float32)
        blocks, at = [], 0
        while at < len(y):
            step = sizes[len(blocks) % len(sizes)]
            blocks.append(y[at : at + step])
            at += step
        frames = np.concatenate(list(stage1.frame_blocks(blocks, 2048, 512)), axis=1)
        np.testing.assert_array_equal(frames[0], librosa.util.frame(y[:, 0], frame_length=2048, hop_length=512).T)

    @pytest.mark.parametrize("at", [0, 5_000, 131_071])
    def test_a_sample_that_is_no_number_is_found_wherever_it_lies(self, at):
        y = noise(3)[:131_072]  # full frames to the end
        y[at] = np.nan
        with pytest.raises(PipelineError, match="NaN"):
            grain_of(y)


class TestFindAudio:
    def test_order_hidden_files_and_links(self, tmp_path):
        for name in ("b/2.wav", "b/1.FLAC", "a/x.mp3", ".hidden/y.wav", "a/.z.wav", "a/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        found = [path.relative_to(tmp_path).as_posix() for path in find_audio([tmp_path])]
        assert found == ["a/x.mp3", "b/1.FLAC", "b/2.wav"]

    def test_a_named_file_is_taken_whatever_it_is_called(self, tmp_path):
        (tmp_path / "sound.xyz").touch()
        assert find_audio([tmp_path / "sound.xyz", tmp_path / "sound.xyz"]) == [tmp_path / "sound.xyz"]

    def test_a_missing_folder_is_an_error(self, tmp_path):
        with pytest.raises(PipelineError, match="no such file or folder"):
            find_audio([tmp_path / "nowhere"])


FORMATS = [
    ("a.wav", "WAV", "PCM_U8", 0.5), ("b.wav", "WAV", "PCM_16", 0.02), ("c.wav", "WAV", "PCM_24", 0.02), ("d.wav", "WAV", "PCM_32", 0.02),
    ("e.wav", "WAV", "FLOAT", 0.02), ("f.wav", "WAV", "DOUBLE", 0.02), ("g.wav", "WAVEX", "PCM_24", 0.02), ("h.wav", "RF64", "PCM_16", 0.02),
    ("i.aiff", "AIFF", "PCM_16", 0.02), ("j.flac", "FLAC", "PCM_24", 0.02), ("k.ogg", "OGG", "VORBIS", 1.5), ("l.opus", "OGG", "OPUS", 1.5),
    ("m.mp3", "MP3", "MPEG_LAYER_III", 1.5), ("n.caf", "CAF", "PCM_16", 0.02),
]  # fmt: skip


@pytest.mark.parametrize(("name", "format_", "subtype", "octaves"), FORMATS)
def test_every_format_is_read(tmp_path, name, format_, subtype, octaves):
    y = np.stack([drone(-25, sr=48_000), drone(-25, sr=48_000, seed=1)], axis=1)
    sf.write(tmp_path / name, y, 48_000, subtype, format=format_)
    measured = stage1.measure_file(tmp_path / name, SETTINGS)
    assert isinstance(measured, stage1.FileGrain), measured
    assert abs(math.log2(measured.grain / grain_of(y, 48_000))) < octaves
    assert (measured.sample_rate_hz, measured.channels) == (48_000, 2)


class TestCommand:
    def test_default_folders_summary_and_contract(self, project):
        ran = project.ran[0]
        assert ran.status == 0
        for text in (
            "12 measured, 0 unchanged, 0 gone",
            "minimum",
            "Drone/Static",
            "next: python convert_to_spectrograms.py",
        ):
            assert text in ran.out
        assert "only 12 files" in ran.err
        content = json.loads((project.folder / "metadata.json").read_text())
        assert content["version"] == 1
        assert content["settings"]["n_fft"] == 2048
        first = content["files"][0]
        assert first["path"] == "Drone/Evolving/sound 01.wav"
        assert set(first) == {"path", "grain", "duration_s", "sample_rate_hz", "channels", "size_bytes", "mtime_ns"}
        y, sr = sf.read(project.folder / first["path"])
        assert first["grain"] == pytest.approx(slow_grain(y, sr), rel=1e-3)

    def test_a_second_run_measures_what_changed_and_drops_what_is_gone(self, tmp_path):
        write_library(tmp_path, 6, 0.5)
        run("measure_audio_grain.py", cwd=tmp_path)
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(0.7), SR)
        os.utime(files[2])
        sf.write(tmp_path / "Drone" / "new.wav", noise(0.5), SR)
        ran = run("measure_audio_grain.py", cwd=tmp_path)
        assert "3 measured, 3 unchanged, 1 gone" in ran.out
        fresh = run("measure_audio_grain.py", "-o", "fresh.json", cwd=tmp_path)
        assert fresh.status == 0
        assert (tmp_path / "fresh.json").read_text() == (tmp_path / "metadata.json").read_text()

    def test_bad_files_are_named_with_the_reason_and_stop_nothing(self, tmp_path):
        write_bad_files(tmp_path / "in")
        sf.write(tmp_path / "in" / "good.wav", drone(), SR)
        ran = run("measure_audio_grain.py", "in", cwd=tmp_path)
        assert ran.status == 1
        skipped = {
            item["path"]: item["reason"] for item in json.loads((tmp_path / "metadata.json").read_text())["skipped"]
        }
        for name, reason in BAD_FILES.items():
            assert skipped[f"in/{name}"].startswith(reason), skipped
            assert f"{name}: {reason}" in ran.err
        assert "1 files, 9 skipped" in ran.out

    def test_a_name_with_a_line_break_stays_on_one_line(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "two\nlines.wav").touch()
        sf.write(tmp_path / "in" / "good.wav", drone(), SR)
        ran = run("measure_audio_grain.py", "in", cwd=tmp_path)
        assert ran.status == 1
        assert "two\\x0alines.wav: empty" in ran.err

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((), "neither Drone/ nor Harmonic Progression/ is in"),
            (("empty",), "0 files found in empty/ (looked for .aif"),
            (("nowhere",), "nowhere: no such file or folder"),
            (("bad",), "none of the 1 files could be measured"),
            (("good.wav", "-o", "good.wav/x.json"), "good.wav: can't write there"),
            (("good.wav", "-o", "damaged.json"), "damaged.json: not readable as JSON"),
            (("good.wav", "-o", "list.json"), "list.json: holds a list"),
            (("good.wav", "-o", "field.json"), "field.json: settings: field hop_length is 'x', not a int"),
            (("--demo", "a", "b"), "--demo writes into one folder"),
            (("-j", "0"), "argument -j/--jobs"),
        ],
    )
    def test_errors_are_one_line_with_status_2(self, tmp_path, args, message):
        (tmp_path / "empty").mkdir()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "zero.wav").touch()
        sf.write(tmp_path / "good.wav", drone(duration_s=0.5), SR)
        (tmp_path / "damaged.json").write_text('{"version": 1, "fil')
        (tmp_path / "list.json").write_text("[]")
        (tmp_path / "field.json").write_text(
            json.dumps({"version": 1, "settings": {**vars(SETTINGS), "hop_length": "x"}})
        )
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        ran = run("measure_audio_grain.py", *args, cwd=tmp_path)
        assert ran.status == 2
        assert sum(message in line for line in ran.err.splitlines()) == 1, ran.err
        assert all(path.read_bytes() == content for path, content in before.items())

    def test_a_read_only_folder_is_told_before_the_work(self, tmp_path):
        sf.write(tmp_path / "good.wav", drone(duration_s=0.5), SR)
        ran = run(
            "measure_audio_grain.py", "good.wav", "-o", "/sys/grain.json", cwd=tmp_path
        )  # not writable even for root
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("error: /sys: can't write there (")

    def test_library_that_hardly_varies_is_warned_of(self, tmp_path):
        for i in range(4):
            sf.write(tmp_path / f"{i}.wav", noise(1, seed=i), SR)
        assert "the files hardly differ in grain" in run("measure_audio_grain.py", ".", cwd=tmp_path).err


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("measure_audio_grain.py", "--demo", cwd=folder)


class TestDemo:
    def test_is_small_and_spreads_its_grain_evenly(self, demo):
        folder, ran = demo
        assert ran.status == 0, ran.err
        files = json.loads((folder / "metadata.json").read_text())["files"]
        assert len(files) == 60
        assert sum(item["size_bytes"] for item in files) < 40e6
        for place in ("Drone/Static", "Drone/Evolving", "Harmonic Progression"):
            octaves = np.log2([item["grain"] for item in files if item["path"].startswith(place)])
            np.testing.assert_allclose(octaves, np.linspace(np.log2(1e-5), np.log2(0.06), 20), atol=0.15)

    def test_is_deterministic(self, demo):
        folder, _ = demo
        y, _ = sf.read(folder / "Drone/Static/demo_static_06.flac", dtype="int16", always_2d=True)
        again = stage1.demo_sound("Drone/Static", 5, float(np.geomspace(1e-5, 0.06, 20)[5]))
        assert np.abs(y - np.round(again * 32767)).max() <= 1

    def test_leaves_its_files_alone_the_second_time(self, demo):
        folder, _ = demo
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
        assert "0 measured, 60 unchanged" in run("measure_audio_grain.py", "--demo", cwd=folder).out
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}

    def test_refuses_folders_that_hold_anything_else(self, tmp_path):
        (tmp_path / "Drone").mkdir()
        (tmp_path / "Drone" / "mine.wav").write_bytes(b"precious")
        ran = run("measure_audio_grain.py", "--demo", cwd=tmp_path)
        assert ran.status == 2
        assert "holds mine.wav, not only the demo" in ran.err
        assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.wav"]

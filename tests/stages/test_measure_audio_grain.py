"""Stage 1 as a user runs it: measure_audio_grain.py."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile as sf
from conftest import BAD_FILES, SR, call, drone, noise, write_bad_files, write_library
from oracles import librosa_grain

from neural_grain.dsp.settings import GrainSettings

SETTINGS = GrainSettings()


class TestCommand:
    def test_the_default_folders_are_measured_and_summarised(self, project):
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
        assert first["grain"] == pytest.approx(librosa_grain(y, sr), rel=1e-3)

    def test_a_second_run_measures_only_changed_files_and_drops_missing_ones(self, tmp_path):
        write_library(tmp_path, 6, 0.5)
        call("measure_audio_grain.py", cwd=tmp_path)
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(0.7), SR)
        os.utime(files[2])
        sf.write(tmp_path / "Drone" / "new.wav", noise(0.5), SR)
        ran = call("measure_audio_grain.py", cwd=tmp_path)
        assert "3 measured, 3 unchanged, 1 gone" in ran.out
        fresh = call("measure_audio_grain.py", "-o", "fresh.json", cwd=tmp_path)
        assert fresh.status == 0
        assert (tmp_path / "fresh.json").read_text() == (tmp_path / "metadata.json").read_text()

    def test_formats_that_cannot_be_read_are_named_once(self, tmp_path):
        write_library(tmp_path, 1, 0.5)
        for name in ("Drone/a.m4a", "Drone/Static/b.M4A", "Drone/c.wma"):
            (tmp_path / name).write_bytes(b"x")
        ran = call("measure_audio_grain.py", ".", "Drone", cwd=tmp_path)
        assert ran.status == 0
        warnings = [line for line in ran.err.splitlines() if "can't be read" in line]
        assert warnings == [
            "warning: .m4a can't be read, left out: a.m4a, b.M4A; convert to WAV or FLAC first",
            "warning: .wma can't be read, left out: c.wma; convert to WAV or FLAC first",
        ]

    @pytest.mark.parametrize("output", ["Drone/Static/sound 00.wav", "DRONE/static/Sound 00.wav", "link.json"])
    def test_a_recording_is_never_the_output(self, tmp_path, output):
        write_library(tmp_path, 1, 0.5)
        source = tmp_path / "Drone/Static/sound 00.wav"
        (tmp_path / "link.json").symlink_to(source)
        before = source.read_bytes()
        ran = call("measure_audio_grain.py", "Drone", "-o", output, cwd=tmp_path)
        assert (ran.status, source.read_bytes()) == (2, before)
        assert ran.err == f"error: {output}: is the input itself, which is never overwritten; choose another name\n"

    def test_bad_files_are_named_with_the_reason_and_the_others_are_measured(self, tmp_path):
        write_bad_files(tmp_path / "in")
        sf.write(tmp_path / "in" / "good.wav", drone(), SR)
        ran = call("measure_audio_grain.py", "in", cwd=tmp_path)
        assert ran.status == 1
        skipped = {
            item["path"]: item["reason"] for item in json.loads((tmp_path / "metadata.json").read_text())["skipped"]
        }
        for name, reason in BAD_FILES.items():
            assert skipped[f"in/{name}"].startswith(reason), skipped
            assert f"{name}: {reason}" in ran.err
        assert "1 files, 9 skipped" in ran.out

    def test_a_file_name_with_a_line_break_is_printed_on_one_line(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "two\nlines.wav").touch()
        sf.write(tmp_path / "in" / "good.wav", drone(), SR)
        ran = call("measure_audio_grain.py", "in", cwd=tmp_path)
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
            (("good.wav", "-o", "bad/zero.wav"), "zero.wav: not readable as JSON"),
            (("good.wav", "-o", "notes.txt"), "notes.txt: not readable as JSON"),
            (("good.wav", "-o", "empty"), "empty: not readable (Is a directory)"),
            (("--demo", "a", "b"), "--demo writes into one folder"),
            (("-j", "0"), "argument -j/--jobs"),
        ],
    )
    def test_an_error_is_one_line_with_status_2_and_changes_no_file(self, tmp_path, args, message):
        (tmp_path / "empty").mkdir()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "zero.wav").touch()
        sf.write(tmp_path / "good.wav", drone(duration_s=0.5), SR)
        (tmp_path / "notes.txt").write_text("not yours")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        ran = call("measure_audio_grain.py", *args, cwd=tmp_path)
        assert ran.status == 2
        assert sum(message in line for line in ran.err.splitlines()) == 1, ran.err
        assert all(path.read_bytes() == content for path, content in before.items())

    @pytest.mark.parametrize(
        ("damage", "reason", "is_kept"),
        [
            (lambda text: text[: len(text) // 2], "not readable as JSON", False),
            (lambda text: "", "not readable as JSON", False),
            (lambda text: "\0" * len(text), "not readable as JSON", False),
            (lambda text: text.replace('"version": 1', '"version": 0'), "field version is 0", False),
            (lambda text: text.replace('"hop_length": 512', '"hop_length": "x"'), "expected int, got 'x'", False),
            (
                lambda text: text.replace('"channels": 1', '"channels": 0'),
                "files[0].channels: expected int >= 1",
                False,
            ),
            (lambda text: "[]", "holds a list", True),
            (lambda text: "my notes \udcff", "not readable as JSON", True),
            (lambda text: '{"mine": 1}', "field version is None", True),
        ],
    )
    def test_a_damaged_or_outdated_document_is_reported_and_made_again(self, tmp_path, damage, reason, is_kept):
        sf.write(tmp_path / "good.wav", drone(duration_s=0.5), SR)
        call("measure_audio_grain.py", "good.wav", cwd=tmp_path)
        path = tmp_path / "metadata.json"
        good = path.read_text()
        damaged = damage(good).encode(errors="surrogateescape")
        path.write_bytes(damaged)
        ran = call("measure_audio_grain.py", "good.wav", cwd=tmp_path)
        assert ran.status == 0
        assert "1 measured, 0 unchanged" in ran.out
        (line,) = [line for line in ran.err.splitlines() if "metadata.json" in line]
        assert reason in line
        assert "it is made again" in line
        assert "make it again with" not in line
        assert path.read_text() == good
        kept = [other.read_bytes() for other in tmp_path.glob("metadata.*.json")]
        assert kept == ([damaged] if is_kept else [])

    def test_a_read_only_output_folder_is_reported_before_anything_is_measured(self, tmp_path):
        sf.write(tmp_path / "good.wav", drone(duration_s=0.5), SR)
        output = "/sys/grain.json"  # not writable even for root
        ran = call("measure_audio_grain.py", "good.wav", "-o", output, cwd=tmp_path)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("error: /sys: can't write there (")

    def test_copies_are_counted_whatever_their_name_and_lossless_format(self, tmp_path):
        y = np.round(2**15 * drone(duration_s=0.5)) / 2**15
        for name, subtype in (("a.wav", "PCM_16"), ("b.flac", "PCM_24"), ("c.aiff", "PCM_16")):
            sf.write(tmp_path / name, y, SR, subtype)
        sf.write(tmp_path / "other.wav", noise(0.5), SR)
        ran = call("measure_audio_grain.py", ".", cwd=tmp_path)
        assert "2 of the 4 files are copies of others" in ran.err
        assert "only 2 files" in ran.err

    def test_a_library_with_a_narrow_range_of_grain_causes_a_warning(self, tmp_path):
        for i in range(4):
            sf.write(tmp_path / f"{i}.wav", noise(1, seed=i), SR)
        assert "the files hardly differ in grain" in call("measure_audio_grain.py", ".", cwd=tmp_path).err

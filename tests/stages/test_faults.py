"""TODO"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from benchmarks import faults, memory
from conftest import ROOT, SR, drone, noise, write_library

import cak_grain_processor as stage3
import convert_to_spectrograms as stage2
import measure_audio_grain as stage1
import neural_audio_processor as stage4
from measure_audio_grain import measure_file, measure_folder
from neural_grain.app import batch as app_batch
from neural_grain.app import processor as app_processor
from neural_grain.audio import formats as audio_formats
from neural_grain.audio import sound as audio_sound
from neural_grain.base import files as base_files
from neural_grain.base.errors import PipelineError
from neural_grain.data import metadata as data_metadata
from neural_grain.data import tiles as data_tiles
from neural_grain.data.metadata import SkippedFile
from neural_grain.dsp import mel as dsp_mel
from neural_grain.dsp import settings as dsp_settings
from neural_grain.dsp import stft as dsp_stft
from neural_grain.dsp.analysis import bands_and_grain
from neural_grain.dsp.settings import GrainSettings

SETTINGS = GrainSettings()


class TestAtAnyMoment:
    """The benchmark's check in a light form: the same command again ends with the files of an undisturbed run."""

    @pytest.mark.parametrize(
        ("name", "kills", "interrupts"), [("measure", 3, 3), ("convert", 2, 1), ("batch", 1, 1)]
    )  # fmt: skip
    def test_a_stage_that_is_struck_ends_the_second_time_as_if_nothing_had_been(
        self, project, tmp_path, name, kills, interrupts
    ):
        stage = next(stage for stage in faults.STAGES if stage.name == name)
        undisturbed = faults.run_undisturbed(stage, project.folder, tmp_path, times=1)
        for n, number in ((kills, signal.SIGKILL), (interrupts, signal.SIGINT)):
            tally = faults.strike_often(undisturbed, tmp_path, n, seed=0, number=number)
            assert tally.moments == n
            assert not tally.failures

    @pytest.mark.parametrize(
        "script",
        [
            "measure_audio_grain.py",
            "convert_to_spectrograms.py",
            "cak_grain_processor.py",
            "neural_audio_processor.py",
        ],
    )
    def test_ctrl_c_while_packages_are_imported_is_one_line(self, tmp_path, script):
        slow = tmp_path / "numpy.py"  # an import that lasts as long as we like
        slow.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
        running = subprocess.Popen(
            [sys.executable, ROOT / script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The script's own folder comes before PYTHONPATH, but holds no numpy.
        assert running.stdout.readline() == "importing\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert (running.returncode, err) == (130, "\ninterrupted\n")

    def test_ctrl_c_inside_a_late_import_is_not_lost(self, tmp_path):
        """As numpy.random's start loses it, whose C code goes on after any error."""
        (tmp_path / "loses_it.py").write_text(
            "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"
        )
        code = (
            "import sys, time; from neural_grain.base.cli import run_stage\n"
            "def body():\n    import loses_it\n    print('imported')\n    time.sleep(20)\n    return 0\n"
            "sys.exit(run_stage(body))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (130, "imported\n")
        assert done.stderr == "\ninterrupted; run the same command again\n"

    def test_an_interrupted_measurement_is_kept_and_gone_on_with(self, tmp_path):
        library = write_library(tmp_path, 6, 0.5)
        kept = []

        def interrupt_after_four(items, total):
            for i, item in enumerate(items):
                if i == 4:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            measure_folder([library], progress=interrupt_after_four, rescue=kept.append)
        assert len(kept[0].files) == 4
        metadata, counts = measure_folder([library], kept[0])
        assert (counts.processed, counts.unchanged) == (2, 4)
        assert metadata == measure_folder([library])[0]

    def test_an_interrupted_conversion_keeps_what_is_done_and_what_was_there(self, copied):
        metadata = data_metadata.read_metadata(copied.folder / "metadata.json")
        earlier = data_tiles.read_pairs(copied.folder / "training_pairs.json")
        source = metadata.files[5].path
        os.utime(source, ns=(1, 1))
        changed, _ = measure_folder([copied.folder], metadata)
        kept = []

        def interrupt(items, total):
            yield next(iter(items))
            raise KeyboardInterrupt

        folder = {"output_dir": copied.folder / "spectrograms", "base": copied.folder}
        os.utime(metadata.files[7].path, ns=(1, 1))
        changed, _ = measure_folder([copied.folder], changed)
        with pytest.raises(KeyboardInterrupt):
            stage2.convert_dataset(changed.files, SETTINGS, earlier, **folder, progress=interrupt, rescue=kept.append)
        assert {item.path for item in kept[0].sources} == {item.path for item in earlier.sources}
        assert all(tile.array.exists() and tile.image.exists() for tile in kept[0].tiles)
        pairs, counts = stage2.convert_dataset(changed.files, SETTINGS, kept[0], **folder)
        assert (counts.processed, counts.unchanged) == (1, 11)
        named = {path for tile in pairs.tiles for path in (tile.array, tile.image)}
        assert named == {path for path in (copied.folder / "spectrograms").rglob("*.*")}


@contextmanager
def held_by_another_thread(lock):
    """Enter a lock on another thread, which gives it back with an exception, so that nothing is written."""
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with suppress(ZeroDivisionError), lock:
            is_held.set()
            may_end.wait()
            raise ZeroDivisionError

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(10)
    try:
        yield
    finally:
        may_end.set()
        thread.join()


class TestTwoRunsInOneFolder:
    @pytest.mark.parametrize(
        ("main", "args", "held"),
        [
            (stage1.main, [], "metadata.json"),
            (stage2.main, [], "training_pairs.json"),
            (stage3.main, ["--device", "cpu"], "grain_processor_v2_output/final_grain_processor_v2.pt"),
            (stage4.main, ["Drone", "--grain", "-1", "-o", "out/"], f"out/{app_batch.BATCH_LOG}"),
            (stage4.main, ["Drone/Static/sound 00.wav", "--grain", "-1", "-o", "out/x.wav"], "out/x.wav"),
        ],
    )
    def test_the_second_says_so(self, project, monkeypatch, capsys, tmp_path, main, args, held):
        monkeypatch.chdir(project.folder)
        if "out/" in held:
            monkeypatch.chdir(tmp_path)
            args = [str(project.folder / args[0]), *args[1:], "--model", str(project.model)]
            (tmp_path / "out").mkdir()
        before = faults.snapshot(project.folder)
        lock = base_files.atomic_write if held == "out/x.wav" else base_files.run_lock
        with held_by_another_thread(lock(Path(held))):
            assert main(args) == 2
        err = capsys.readouterr().err
        assert sum("error:" in line for line in err.splitlines()) == 1
        assert f"{held}: another run is writing it; wait until it has ended" in err
        assert faults.snapshot(project.folder) == before
        assert not list((tmp_path).rglob(".*"))


CHANGES = {
    "grows": lambda path: path.open("ab").write(b"\0" * 8_000),
    "is cut off": lambda path: os.truncate(path, 100_000),
    "is written anew": lambda path: sf.write(path, noise(4, seed=9), SR, "PCM_16"),
    "vanishes": lambda path: path.unlink(),
}


@pytest.fixture(params=CHANGES)
def unsteady(request, tmp_path, monkeypatch):
    """A real file that changes while its first block is read, whoever reads it."""
    path = tmp_path / "x.wav"
    sf.write(path, drone(-40, 4), SR, "PCM_16")
    os.utime(path, ns=(10**18, 10**18))
    changes = [CHANGES[request.param]]

    def open_sound(source):
        sound = open_it(source)

        def blocks():
            for block in sound.blocks():
                if changes:
                    changes.pop()(path)
                yield block

        return replace(sound, blocks=blocks)

    open_it = audio_sound.open_sound
    for module in (stage1, stage2, app_processor, audio_formats):
        monkeypatch.setattr(module, "open_sound", open_sound)
    return path


class TestAFileThatChangesWhileItIsRead:
    def test_is_not_measured(self, unsteady):
        result = measure_file(unsteady, SETTINGS)
        assert isinstance(result, SkippedFile), result
        assert result.size_bytes == 352_844  # as it was: the next run sees that it is another now
        assert not data_metadata.is_unchanged(result)

    def test_is_not_converted(self, unsteady, tmp_path):
        item = data_metadata.FileGrain(unsteady, 0.1, 4.0, SR, 1, *base_files.file_stamp(unsteady))
        (tmp_path / "arrays").mkdir()
        result = stage2.convert_file(item, dsp_settings.default_settings(SETTINGS), tmp_path, tmp_path, None)
        assert isinstance(result, SkippedFile), result
        assert not list((tmp_path / "arrays").iterdir())

    @pytest.mark.parametrize("octaves", [-1.0, 0.0])
    def test_is_not_rendered(self, unsteady, tmp_path, project, octaves):
        processor = app_processor.GrainProcessor.load(project.model, "cpu")
        with pytest.raises(PipelineError):
            processor.render_file(unsteady, tmp_path / "out.wav", app_processor.RenderTarget(octaves))
        assert not [path for path in tmp_path.iterdir() if path != unsteady]


def test_a_file_that_vanishes_after_it_was_found_is_named(tmp_path, monkeypatch):
    library = write_library(tmp_path, 3, 0.5)
    earlier, _ = measure_folder([library])
    monkeypatch.setattr(stage1, "find_audio", lambda paths: [item.path for item in earlier.files])
    earlier.files[1].path.unlink()
    metadata, counts = measure_folder([library], earlier)
    assert (counts.processed, len(metadata.files)) == (1, 2)
    assert metadata.skipped[0].reason == "not readable (No such file or directory)"


@pytest.mark.parametrize(
    ("size", "mtime_ns", "measured"),
    [
        ("same", 0, 0),
        ("same", 3600, 1),
        ("same", -(10**9), 1),
        ("same", 10**9, 1),
        ("other", -(10**9), 1),
        ("other", 0, 1),
    ],
)
def test_a_clock_that_is_set_hides_no_change(tmp_path, size, mtime_ns, measured):
    library = write_library(tmp_path, 2, 0.5)
    earlier, _ = measure_folder([library])
    changed = earlier.files[0]
    if size == "other":
        sf.write(changed.path, drone(-10, 0.7), SR, "PCM_16")
    os.utime(changed.path, ns=(0, changed.mtime_ns + mtime_ns * 10**9))
    now, counts = measure_folder([library], earlier)
    assert counts.processed == measured
    assert measure_folder([library], now).counts.processed == 0  # a time in the future is not taken for a change for ever


class TestMemory:
    def test_headers_that_lie_about_channels_and_length_cost_no_memory(self, tmp_path):
        lies = memory.write_false_headers(tmp_path / "lies")

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))

        ran = subprocess.run(
            [sys.executable, str(ROOT / "measure_audio_grain.py"), "lies"],
            cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert "Traceback" not in ran.stderr
        content = json.loads((tmp_path / "metadata.json").read_text())
        assert len(content["files"]) + len(content["skipped"]) == len(lies)
        assert all(item["duration_s"] < 3 for item in content["files"])
        reasons = {item["path"].split("/")[-1]: item["reason"] for item in content["skipped"]}
        assert reasons["100000_channels.au"] == "not readable as audio (Too many channels specified)"
        assert reasons["12_days.flac"].startswith("its header promises 68719476720 samples")

    def test_many_channels_are_read_in_as_little_memory_as_eight(self):
        y = noise(0.2)[:, None] * np.ones(1024)
        blocks = list(dsp_stft.frame_blocks(audio_sound.sound_from_array(y, SR).blocks(), 2048, 512))
        assert max(windows.shape[1] for windows in blocks) == 4
        assert sum(windows.shape[1] for windows in blocks) == (len(y) - 2048) // 512 + 1

    def test_the_picture_of_a_very_long_file_lies_on_the_disk_and_is_the_same(self, monkeypatch):
        sound, settings = audio_sound.sound_from_array(drone(-30, 4), SR), dsp_settings.default_settings(SETTINGS)

        def picture() -> np.ndarray:
            x = bands_and_grain(sound, settings).bands.T
            dsp_mel.powers_to_log_mel(x, settings.dynamic_range_db)
            return x

        whole = picture()
        monkeypatch.setattr(base_files, "SCRATCH_BYTES", 0)
        monkeypatch.setattr(dsp_mel, "PIECE_FRAMES", 100)
        mapped = picture()
        assert isinstance(mapped.base, np.memmap)
        np.testing.assert_array_equal(mapped, whole)

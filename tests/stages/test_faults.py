"""Kill, Ctrl-C, a second run and files that change: nothing is half written, and the next run continues."""

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
from benchmarks import fault_project, faults, memory
from conftest import ROOT, SR, drone, noise, run, write_library

import cak_grain_processor as stage3
import convert_to_spectrograms as stage2
import measure_audio_grain as stage1
import neural_audio_processor as stage4
from measure_audio_grain import measure_file, measure_folder
from neural_grain.app import processor
from neural_grain.app.batch_log import BATCH_LOG
from neural_grain.audio import formats
from neural_grain.audio import sound as audio_sound
from neural_grain.base import files
from neural_grain.base.errors import PipelineError
from neural_grain.data.metadata import FileGrain, SkippedFile, is_unchanged, read_metadata
from neural_grain.data.tiles import read_pairs
from neural_grain.dsp import mel
from neural_grain.dsp.analysis import bands_and_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.stft import frame_blocks

SETTINGS = GrainSettings()


@pytest.fixture(scope="module")
def small_project(tmp_path_factory):
    """The project that benchmarks/faults.py strikes, without a model."""
    return fault_project.make_project(tmp_path_factory.mktemp("small") / "project", fault_project.STAGES[:2])


class TestAtAnyMoment:
    """A short form of benchmarks/faults.py: after any fault, the same command makes the files of an undisturbed run."""

    @pytest.mark.parametrize(
        ("name", "struck_by"),
        [("measure", ("interrupt", "vanish")), ("convert", ("kill",)), ("batch", ("power",))],
    )
    def test_a_stage_that_was_struck_completes_when_it_is_run_again(self, small_project, tmp_path, name, struck_by):
        undisturbed = fault_project.run_undisturbed(fault_project.STAGE_OF[name], small_project, tmp_path, times=1)
        for fault in struck_by:
            (struck,) = faults.strike_often(undisturbed, tmp_path, fault, 1)
            assert not struck.failures, fault

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
        slow = tmp_path / "numpy.py"  # takes the place of numpy and is slow to import
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

    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            ("MemoryError()", "error: out of memory; "),
            ("ImportError('x.so: failed to map segment from shared object')", "error: out of memory; "),
            ("OSError(24, 'Too many open files')", "error: too many open files; "),
            ("OSError('no x.so')", "error: a package can't be loaded (no x.so); "),
        ],
    )
    def test_a_package_that_can_not_be_loaded_is_one_line(self, tmp_path, fault, line):
        (tmp_path / "numpy.py").write_text(f"raise {fault}\n")  # takes the place of numpy
        ran = run("measure_audio_grain.py", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert ran.status == 2
        assert ran.err.startswith(line)
        assert len(ran.err.splitlines()) == 1

    def test_ctrl_c_inside_a_late_import_is_not_lost(self, tmp_path):
        """The C code that starts numpy.random swallows every exception, like this module."""
        (tmp_path / "loses_it.py").write_text(
            "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"
        )
        code = (
            "import sys, time; from neural_grain.base.cli import run_stage\n"
            "def body():\n    import loses_it\n    print('imported')\n    time.sleep(600)\n    return 0\n"
            "sys.exit(run_stage(body))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,  # the interrupt must end the sleep, not wait for it
        )
        assert (done.returncode, done.stdout) == (130, "imported\n")
        assert done.stderr == "\ninterrupted; run the same command again\n"

    def test_an_interrupted_measurement_is_saved_and_continued(self, tmp_path):
        library = write_library(tmp_path, 6, 0.5)
        saved = []

        def interrupt_after_four(items, total):
            for i, item in enumerate(items):
                if i == 4:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            measure_folder([library], progress=interrupt_after_four, rescue=saved.append)
        assert len(saved[0].files) == 4
        metadata, counts = measure_folder([library], saved[0])
        assert (counts.processed, counts.unchanged) == (2, 4)
        assert metadata == measure_folder([library])[0]

    def test_an_interrupted_conversion_saves_new_tiles_and_keeps_earlier_ones(self, copied_tiles):
        metadata = read_metadata(copied_tiles.folder / "metadata.json")
        earlier = read_pairs(copied_tiles.folder / "training_pairs.json")
        source = metadata.files[5].path
        os.utime(source, ns=(1, 1))
        changed, _ = measure_folder([copied_tiles.folder], metadata)
        saved = []

        def interrupt(items, total):
            yield next(iter(items))
            raise KeyboardInterrupt

        folder = {"output_dir": copied_tiles.folder / "spectrograms", "base": copied_tiles.folder}
        os.utime(metadata.files[7].path, ns=(1, 1))
        changed, _ = measure_folder([copied_tiles.folder], changed)
        with pytest.raises(KeyboardInterrupt):
            stage2.convert_dataset(changed.files, SETTINGS, earlier, **folder, progress=interrupt, rescue=saved.append)
        assert {item.path for item in saved[0].sources} == {item.path for item in earlier.sources}
        assert all(file.exists() for tile in saved[0].tiles for file in tile.files)
        pairs, counts = stage2.convert_dataset(changed.files, SETTINGS, saved[0], **folder)
        assert (counts.processed, counts.unchanged) == (1, 11)
        assert {path for tile in pairs.tiles for path in tile.files} == {
            path for path in (copied_tiles.folder / "spectrograms").rglob("*.*")
        }


@contextmanager
def held_by_another_thread(lock):
    """Hold a lock on another thread. An exception ends it there, so that nothing is written."""
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
            (stage4.main, ["Drone", "--grain", "-1", "-o", "out/"], f"out/{BATCH_LOG}"),
            (stage4.main, ["Drone/Static/sound 00.wav", "--grain", "-1", "-o", "out/x.wav"], "out/x.wav"),
        ],
    )
    def test_the_second_is_refused_in_one_line_and_changes_nothing(
        self, project, monkeypatch, capsys, tmp_path, main, args, held
    ):
        monkeypatch.chdir(project.folder)
        if "out/" in held:
            monkeypatch.chdir(tmp_path)
            args = [str(project.folder / args[0]), *args[1:], "--model", str(project.model)]
            (tmp_path / "out").mkdir()
        before = fault_project.snapshot(project.folder)
        lock = files.atomic_write if held == "out/x.wav" else files.run_lock
        with held_by_another_thread(lock(Path(held))):
            assert main(args) == 2
        err = capsys.readouterr().err
        assert sum("error:" in line for line in err.splitlines()) == 1
        assert f"{held}: another run is writing it; wait until it has ended" in err
        assert fault_project.snapshot(project.folder) == before
        assert not list((tmp_path).rglob(".*"))


CHANGES = {
    "grows": lambda path: path.open("ab").write(b"\0" * 8_000),
    "is cut off": lambda path: os.truncate(path, 100_000),
    "is replaced": lambda path: sf.write(path, noise(4, seed=9), SR, "PCM_16"),
    "vanishes": lambda path: path.unlink(),
}


@pytest.fixture(params=CHANGES)
def changing_file(request, tmp_path, monkeypatch):
    """An audio file that changes while a stage reads its first block."""
    path = tmp_path / "x.wav"
    sf.write(path, drone(-40, 4), SR, "PCM_16")
    os.utime(path, ns=(10**18, 10**18))
    changes = [CHANGES[request.param]]

    def open_sound(source):
        sound = open_original(source)

        def blocks():
            for block in sound.blocks():
                if changes:
                    changes.pop()(path)
                yield block

        return replace(sound, blocks=blocks)

    open_original = audio_sound.open_sound
    for module in (stage1, stage2, processor, formats):
        monkeypatch.setattr(module, "open_sound", open_sound)
    return path


class TestFileThatChangesWhileItIsRead:
    def test_is_not_measured(self, changing_file):
        result = measure_file(changing_file, SETTINGS)
        assert isinstance(result, SkippedFile), result
        assert not is_unchanged(result)
        if not changing_file.exists():  # it comes back as it was
            sf.write(changing_file, drone(-40, 4), SR, "PCM_16")
            os.utime(changing_file, ns=(10**18, 10**18))
            assert not is_unchanged(result)

    def test_is_not_converted(self, changing_file, tmp_path):
        item = FileGrain(changing_file, 0.1, 4.0, SR, 1, *files.file_stamp(changing_file))
        (tmp_path / "arrays").mkdir()
        result = stage2.convert_file(item, default_settings(SETTINGS), tmp_path, tmp_path, None)
        assert isinstance(result, SkippedFile), result
        assert not list((tmp_path / "arrays").iterdir())

    @pytest.mark.parametrize("octaves", [-1.0, 0.0])
    def test_is_not_rendered(self, changing_file, tmp_path, project, octaves):
        grain_processor = processor.GrainProcessor.load(project.model, "cpu")
        with pytest.raises(PipelineError):
            grain_processor.render_file(changing_file, tmp_path / "out.wav", processor.RenderTarget(octaves))
        assert not [path for path in tmp_path.iterdir() if path != changing_file]


def test_a_file_that_vanishes_after_it_was_found_is_named(tmp_path, monkeypatch):
    library = write_library(tmp_path, 3, 0.5)
    earlier, _ = measure_folder([library])
    monkeypatch.setattr(stage1, "find_audio", lambda paths: [item.path for item in earlier.files])
    earlier.files[1].path.unlink()
    metadata, counts = measure_folder([library], earlier)
    assert (counts.processed, len(metadata.files)) == (1, 2)
    assert metadata.skipped[0].reason == "not readable (No such file or directory)"


def test_a_file_that_the_system_refused_is_tried_again_although_it_has_not_changed(tmp_path):
    path = tmp_path / "x.wav"
    sf.write(path, drone(duration_s=0.5), SR, "PCM_16")
    assert isinstance(measure_file(path, SETTINGS), FileGrain)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        refused = measure_file(path, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refused.reason == "not readable (Too many open files)"
    assert not is_unchanged(refused)


@pytest.mark.parametrize(
    ("size", "seconds_later", "measured"),
    [
        ("same", 0, 0),
        ("same", 3600, 1),
        ("same", -(10**9), 1),
        ("same", 10**9, 1),
        ("other", -(10**9), 1),
        ("other", 0, 1),
    ],
)
def test_a_change_is_noticed_when_the_clock_was_set(tmp_path, size, seconds_later, measured):
    library = write_library(tmp_path, 2, 0.5)
    earlier, _ = measure_folder([library])
    changed = earlier.files[0]
    if size == "other":
        sf.write(changed.path, drone(-10, 0.7), SR, "PCM_16")
    os.utime(changed.path, ns=(0, changed.mtime_ns + seconds_later * 10**9))
    now, counts = measure_folder([library], earlier)
    assert counts.processed == measured
    assert measure_folder([library], now).counts.processed == 0  # although the time may lie in the future


class TestMemory:
    def test_is_not_allocated_for_false_numbers_of_channels_or_samples_in_a_header(self, tmp_path):
        files_written = memory.write_false_headers(tmp_path / "lies")

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))

        ran = subprocess.run(
            [sys.executable, str(ROOT / "measure_audio_grain.py"), "lies"],
            cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert "Traceback" not in ran.stderr
        content = json.loads((tmp_path / "metadata.json").read_text())
        assert len(content["files"]) + len(content["skipped"]) == len(files_written)
        assert all(item["duration_s"] < 3 for item in content["files"])
        reasons = {item["path"].split("/")[-1]: item["reason"] for item in content["skipped"]}
        assert reasons["100000_channels.au"] == "not readable as audio (Too many channels specified)"
        assert reasons["12_days.flac"].startswith("its header promises 68719476720 samples")

    @pytest.mark.parametrize("limit_mb", [200, 250])  # where OpenBLAS waited for ever, or ended without a word
    @pytest.mark.parametrize("script", [stage.command[0] for stage in fault_project.STAGES[:4]])
    def test_a_limit_with_which_nothing_can_be_done_is_refused_in_one_line(self, tmp_path, script, limit_mb):
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limit_mb << 20, resource.RLIM_INFINITY))

        ran = subprocess.run(
            [sys.executable, str(ROOT / script)],
            cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 2
        assert ran.stderr == (
            f"error: the memory is limited to {limit_mb} MB (ulimit -v); at least 256 MB are needed to start\n"
        )

    def test_is_not_taken_for_threads_of_openblas(self):
        code = (
            "from neural_grain.base.startup import begin_script; begin_script(); import numpy, scipy.linalg, threadpoolctl;"
            "print({each['num_threads'] for each in threadpoolctl.threadpool_info() if each['internal_api'] == 'openblas'})"
        )
        env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        out = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        assert out.stdout in ("{1}\n", "set()\n")  # none on systems where another library multiplies matrices

    def test_is_limited_for_many_channels_by_shorter_blocks(self):
        y = noise(0.2)[:, None] * np.ones(1024)
        blocks = list(frame_blocks(audio_sound.sound_from_array(y, SR).blocks(), 2048, 512))
        assert max(windows.shape[1] for windows in blocks) == 4
        assert sum(windows.shape[1] for windows in blocks) == (len(y) - 2048) // 512 + 1

    def test_is_limited_for_a_long_picture_which_is_the_same_in_a_file(self, monkeypatch):
        sound, settings = audio_sound.sound_from_array(drone(-30, 4), SR), default_settings(SETTINGS)

        def picture() -> np.ndarray:
            x = bands_and_grain(sound, settings).bands.T
            mel.powers_to_log_mel(x, settings.dynamic_range_db)
            return x

        whole = picture()
        monkeypatch.setattr(files, "SCRATCH_BYTES", 0)
        monkeypatch.setattr(mel, "PIECE_FRAMES", 100)
        mapped = picture()
        assert isinstance(mapped.base, np.memmap)
        np.testing.assert_array_equal(mapped, whole)

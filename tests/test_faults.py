"""Faults: killed, interrupted, on a full disk, beside another run, under files that change: one line, nothing lost, no litter."""

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

import numpy as np
import pytest
import soundfile as sf
from benchmarks import faults, memory
from conftest import ROOT, SR, drone, noise, run, write_library

import cak_grain_processor as stage3
import convert_to_spectrograms as stage2
import measure_audio_grain as stage1
import neural_audio_processor as stage4
from measure_audio_grain import GrainSettings, PipelineError, SkippedFile, measure_file, measure_folder

SETTINGS = GrainSettings()


@contextmanager
def full_disk(n_bytes: int):
    """In this process no file grows beyond so many bytes: writing more fails like on a full disk, root or not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
            "import sys, time; from measure_audio_grain import run_main\n"
            "def body():\n    import loses_it\n    print('imported')\n    time.sleep(20)\n    return 0\n"
            "sys.exit(run_main(body))"
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
        assert (counts.measured, counts.unchanged) == (2, 4)
        assert metadata == measure_folder([library])[0]

    def test_an_interrupted_conversion_keeps_what_is_done_and_what_was_there(self, copied):
        metadata = stage1.read_metadata(copied.folder / "metadata.json")
        earlier = stage2.read_pairs(copied.folder / "training_pairs.json")
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
        assert (counts.converted, counts.unchanged) == (1, 11)
        named = {path for tile in pairs.tiles for path in (tile.array, tile.image)}
        assert named == {path for path in (copied.folder / "spectrograms").rglob("*.*")}


class TestLeftovers:
    def test_of_killed_runs_go_and_what_is_the_users_or_a_living_runs_stays(self, tmp_path):
        dead, alive, lock = (
            stage1._hidden_name(tmp_path / name, kind)
            for name, kind in (("dead.wav", "part"), ("alive.wav", "part"), ("x", "lock"))
        )
        mine = [tmp_path / name for name in (".grain-notes", ".grain-0123456789abcdef.part2", ".x.part", "a.part.wav")]
        for path in (dead, lock, *mine):
            path.write_bytes(b"x")
        (tmp_path / ".grain-0123456789abcdef.part").mkdir()
        (tmp_path / ".grain-0123456789abcde0.part").symlink_to(mine[0])
        code = (
            "import sys, time; from pathlib import Path; from measure_audio_grain import replacing\n"
            "with replacing(Path('alive.wav')): print('held', flush=True); time.sleep(60)"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout.readline() == "held\n"
        stage1.prepare_folder(tmp_path)
        assert not dead.exists()
        assert not lock.exists()
        assert alive.exists()
        assert all(path.exists() for path in mine)
        other.kill()
        other.wait()
        stage1.prepare_folder(tmp_path)
        assert not alive.exists()
        assert len(list(tmp_path.iterdir())) == len(mine) + 2

    def test_a_name_of_255_bytes_can_be_replaced(self, tmp_path):
        path = tmp_path / ("\N{MUSICAL SYMBOL G CLEF}" * 62 + "abc.wav")
        stage1.write_json(path, {})
        assert [item.name for item in tmp_path.iterdir()] == [path.name]

    def test_many_threads_never_write_one_file_at_a_time(self, tmp_path):
        path, busy, wrong = tmp_path / "x.json", [], []

        def write(i: int) -> None:
            for _ in range(50):
                try:
                    stage1.write_json(path, {"from": i})
                    json.loads(path.read_text())
                except PipelineError as err:
                    busy.append(str(err))
                except (OSError, ValueError) as err:
                    wrong.append(err)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert all("another run is writing it" in line for line in busy)
        assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


class TestTwoRunsInOneFolder:
    @pytest.mark.parametrize(
        ("main", "args", "held"),
        [
            (stage1.main, [], "metadata.json"),
            (stage2.main, [], "training_pairs.json"),
            (stage3.main, ["--device", "cpu"], "grain_processor_v2_output/final_grain_processor_v2.pt"),
            (stage4.main, ["Drone", "--grain", "-1", "-o", "out/"], f"out/{stage4.BATCH_LOG}"),
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
        holder = stage1.replacing if held == "out/x.wav" else stage1.only_run
        target = stage1.Path(held)
        with suppress(ZeroDivisionError), holder(target):
            assert main(args) == 2
            raise ZeroDivisionError  # what was held is given back, and nothing is written
        err = capsys.readouterr().err
        assert sum("error:" in line for line in err.splitlines()) == 1
        assert f"{held}: another run is writing it; wait until it has ended" in err
        assert faults.snapshot(project.folder) == before
        assert not list((tmp_path).rglob(".*"))


def write_tile(path):
    with stage1.replacing(path) as part, part.open("wb") as file:
        np.save(file, np.zeros((128, 256), np.float32), allow_pickle=False)


def write_picture(path):
    x = np.random.default_rng(0).random((128, 256), np.float32)  # the same each time, or the size would be another
    stage2.TilePainter(stage2.default_settings(SETTINGS)).save(path, x, "x")


def write_figure(path):
    from matplotlib.figure import Figure

    stage3.save_figure(Figure(), path)


def write_sound(path):
    kind = stage4.OutputFormat(
        *{".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}[path.suffix]
    )
    with stage1.replacing(path) as part, stage4.writing(part, stage1.sound_from_array(noise(1), SR), kind) as file:
        file.write(noise(3))


WRITERS = {
    "a.json": lambda path: stage1.write_json(path, {"x": [0.1] * 10_000}),
    "a.npy": write_tile,
    "a.png": write_picture,
    "b.png": write_figure,
    "a.pt": lambda path: stage3.save_checkpoint(path, {"weights": torch_zeros()}),
    "a.wav": write_sound,
    "a.flac": write_sound,
    "a.ogg": write_sound,
}


def torch_zeros():
    import torch

    return torch.zeros(50_000)


class TestFullDisk:
    @pytest.mark.parametrize("name", WRITERS)
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
    def test_every_writer_says_so_in_one_line_and_leaves_the_old_file(self, tmp_path, name, share):
        path = tmp_path / name
        WRITERS[name](path)  # so much is needed
        size = path.stat().st_size
        path.write_bytes(b"old")
        with full_disk(int(share * size)), pytest.raises(PipelineError, match=r"can't write") as err:
            WRITERS[name](path)
        assert "\n" not in str(err.value)
        assert path.read_bytes() == b"old"
        assert [item.name for item in tmp_path.iterdir()] == [name]

    def test_a_batch_goes_on_when_there_is_room_again(self, project, tmp_path):
        sf.write(tmp_path / "small.wav", drone(duration_s=1), SR)
        sf.write(tmp_path / "large.wav", drone(duration_s=2), SR)
        args = ("small.wav", "large.wav", "--grain", -1, "-o", "out/", "--model", project.model)
        command = [sys.executable, str(ROOT / "neural_audio_processor.py"), *map(str, args)]
        ran = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=faults.limit_files(100_000), check=False
        )
        assert ran.returncode == 1
        assert [line for line in ran.stderr.splitlines() if "large.wav: can't write" in line]
        assert "Traceback" not in ran.stderr
        assert {path.name for path in (tmp_path / "out").iterdir()} == {stage4.BATCH_LOG, "small_grain-1.0.wav"}
        again = run("neural_audio_processor.py", *args, cwd=tmp_path)
        assert (again.status, "1 rendered, 1 unchanged" in again.out) == (0, True)

    def test_working_space_that_the_disk_has_no_room_for_is_one_line(self, monkeypatch):
        monkeypatch.setattr(stage2, "MEMORY_BYTES", 0)
        with full_disk(100_000), pytest.raises(PipelineError, match=r"no room for 0\.4 GB of working space"):
            stage2.large_array((100, 1_000_000))


@pytest.mark.parametrize(
    ("main", "args"),
    [
        (stage2.main, ["--output-dir", "/sys/grain", "--pairs", "/sys/grain.json"]),
        (stage3.main, ["--output-dir", "/sys/grain"]),
        (stage4.main, ["Drone", "--grain", "-1", "-o", "/sys/grain/"]),
        (stage4.main, ["Drone/Static/sound 00.wav", "--grain", "-1", "-o", "/sys/x.wav"]),
    ],
)
def test_a_read_only_folder_is_one_line_before_the_work(copied, monkeypatch, capsys, main, args):
    monkeypatch.chdir(copied.folder)
    before = faults.snapshot(copied.folder)
    assert main(args) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(err) == 1
    assert "can't write" in err[0]
    assert faults.snapshot(copied.folder) == before


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

    open_it = stage1.open_sound
    for module in (stage1, stage2, stage4):
        monkeypatch.setattr(module, "open_sound", open_sound)
    return path


class TestAFileThatChangesWhileItIsRead:
    def test_is_not_measured(self, unsteady):
        result = measure_file(unsteady, SETTINGS)
        assert isinstance(result, SkippedFile), result
        assert result.size_bytes == 352_844  # as it was: the next run sees that it is another now
        assert not stage1._is_unchanged(result)

    def test_is_not_converted(self, unsteady, tmp_path):
        item = stage1.FileGrain(unsteady, 0.1, 4.0, SR, 1, *stage1.file_stamp(unsteady))
        (tmp_path / "arrays").mkdir()
        result = stage2.convert_file(item, stage2.default_settings(SETTINGS), tmp_path, tmp_path, None)
        assert isinstance(result, SkippedFile), result
        assert not list((tmp_path / "arrays").iterdir())

    @pytest.mark.parametrize("octaves", [-1.0, 0.0])
    def test_is_not_rendered(self, unsteady, tmp_path, project, octaves):
        processor = stage4.GrainProcessor.load(project.model, "cpu")
        with pytest.raises(PipelineError):
            processor.render_file(unsteady, tmp_path / "out.wav", stage4.Asked(octaves))
        assert not [path for path in tmp_path.iterdir() if path != unsteady]


def test_a_file_that_vanishes_after_it_was_found_is_named(tmp_path, monkeypatch):
    library = write_library(tmp_path, 3, 0.5)
    earlier, _ = measure_folder([library])
    monkeypatch.setattr(stage1, "find_audio", lambda paths: [item.path for item in earlier.files])
    earlier.files[1].path.unlink()
    metadata, counts = measure_folder([library], earlier)
    assert (counts.measured, len(metadata.files)) == (1, 2)
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
    assert counts.measured == measured
    assert measure_folder([library], now)[1].measured == 0  # a time in the future is not taken for a change for ever


class TestMemory:
    def test_headers_that_lie_about_channels_and_length_cost_no_memory(self, tmp_path):
        lies = memory.write_lies(tmp_path / "lies")

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
        blocks = list(stage1.frame_blocks(stage1.sound_from_array(y, SR).blocks(), 2048, 512))
        assert max(windows.shape[1] for windows in blocks) == 4
        assert sum(windows.shape[1] for windows in blocks) == (len(y) - 2048) // 512 + 1

    def test_the_picture_of_a_very_long_file_lies_on_the_disk_and_is_the_same(self, monkeypatch):
        sound, settings = stage1.sound_from_array(drone(-30, 4), SR), stage2.default_settings(SETTINGS)
        whole = stage2.log_mel_of(sound, settings)
        monkeypatch.setattr(stage2, "MEMORY_BYTES", 0)
        monkeypatch.setattr(stage2, "PIECE_FRAMES", 100)
        mapped = stage2.log_mel_of(sound, settings)
        assert isinstance(mapped.base, np.memmap)
        np.testing.assert_array_equal(mapped, whole)

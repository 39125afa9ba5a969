"""A full disk or a read-only folder is one line, and leaves no damaged or temporary file."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile as sf
from benchmarks import fault_project, fault_resources
from conftest import ROOT, SR, call, drone, noise

import cak_grain_processor as stage3
import convert_to_spectrograms as stage2
import neural_audio_processor as stage4
from neural_grain.app.batch_log import BATCH_LOG
from neural_grain.audio import formats
from neural_grain.audio.sound import sound_from_array
from neural_grain.base import files
from neural_grain.base.errors import PipelineError
from neural_grain.base.records import write_json
from neural_grain.data.demo import write_demo
from neural_grain.data.pictures import TilePainter
from neural_grain.data.tiles import TilePictures
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.learn.checkpoint import save_checkpoint
from neural_grain.learn.figures import save_figure

SETTINGS = GrainSettings()


@contextmanager
def full_disk(n_bytes: int):
    """Limit the size of every file that this process writes. Writing more fails as on a full disk, also for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_tile(path):
    with files.atomic_write(path) as part, part.open("wb") as file:
        np.save(file, np.zeros((128, 256), np.float32), allow_pickle=False)


def write_picture(path):
    x = np.random.default_rng(0).random(
        (128, 256), np.float32
    )  # the same seed each time, because the size depends on the content
    TilePainter(default_settings(SETTINGS)).save(path, TilePictures(x, x), "x")


def write_figure(path):
    from matplotlib.figure import Figure

    save_figure(Figure(), path)


def write_sound(path):
    kind = formats.OutputFormat(
        *{".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}[path.suffix]
    )
    with (
        files.atomic_write(path) as part,
        formats.open_output(part, sound_from_array(noise(1), SR), kind) as file,
    ):
        file.write(noise(3))


def torch_zeros():
    import torch

    return torch.zeros(50_000)


WRITERS = {
    "a.json": lambda path: write_json(path, {"x": [0.1] * 10_000}),
    "a.npy": write_tile,
    "a.png": write_picture,
    "b.png": write_figure,
    "a.pt": lambda path: save_checkpoint(path, {"weights": torch_zeros()}),
    "a.wav": write_sound,
    "a.flac": write_sound,
    "a.ogg": write_sound,
}


class TestFullDisk:
    @pytest.mark.parametrize("name", WRITERS)
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
    def test_is_one_line_from_every_writer_and_the_old_file_stays(self, tmp_path, name, share):
        path = tmp_path / name
        WRITERS[name](path)
        size = path.stat().st_size
        path.write_bytes(b"old")
        with full_disk(int(share * size)), pytest.raises(PipelineError, match=r"can't write") as err:
            WRITERS[name](path)
        assert "\n" not in str(err.value)
        assert path.read_bytes() == b"old"
        assert [item.name for item in tmp_path.iterdir()] == [name]

    def test_is_one_line_while_the_demo_is_written(self, tmp_path):
        with full_disk(100_000), pytest.raises(PipelineError, match=r"demo_static_01\.flac: can't write"):
            write_demo(tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_stops_some_files_of_a_batch_which_continues_when_there_is_room_again(self, project, tmp_path):
        sf.write(tmp_path / "small.wav", drone(duration_s=1), SR)
        sf.write(tmp_path / "large.wav", drone(duration_s=2), SR)
        args = ("small.wav", "large.wav", "--grain", -1, "-o", "out/", "--model", project.model)
        command = [sys.executable, str(ROOT / "neural_audio_processor.py"), *map(str, args)]
        ran = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            preexec_fn=fault_resources.limit_files(100_000),
            check=False,
        )
        assert ran.returncode == 1
        assert [line for line in ran.stderr.splitlines() if "large.wav: can't write" in line]
        assert "Traceback" not in ran.stderr
        assert {path.name for path in (tmp_path / "out").iterdir()} == {BATCH_LOG, "small_grain-1.0.wav"}
        again = call("neural_audio_processor.py", *args, cwd=tmp_path)
        assert (again.status, "1 rendered, 1 unchanged" in again.out) == (0, True)

    def test_is_one_line_if_it_has_no_room_for_working_space(self, monkeypatch):
        monkeypatch.setattr(files, "SCRATCH_BYTES", 0)
        with full_disk(100_000), pytest.raises(PipelineError, match=r"no room for 0\.4 GB of working space"):
            files.scratch_array((100, 1_000_000))


@pytest.mark.parametrize(
    ("main", "args"),
    [
        (stage2.main, ["--output-dir", "/sys/grain", "--pairs", "/sys/grain.json"]),
        (stage3.main, ["--output-dir", "/sys/grain"]),
        (stage4.main, ["Drone", "--grain", "-1", "-o", "/sys/grain/"]),
        (stage4.main, ["Drone/Static/sound 00.wav", "--grain", "-1", "-o", "/sys/x.wav"]),
    ],
)
def test_a_read_only_folder_is_one_line_before_any_work_is_done(copied, monkeypatch, capsys, main, args):
    monkeypatch.chdir(copied.folder)
    before = fault_project.snapshot(copied.folder)
    assert main(args) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(err) == 1
    assert "can't write" in err[0]
    assert fault_project.snapshot(copied.folder) == before

"""How stages 1 and 2 scale with the number of files, and how their speed compares with the least possible work.

    python tests/benchmarks/scale.py [--sizes 1000,3000,10000] [--tiny 10000,30000,100000]
    python tests/benchmarks/scale.py LIBRARY [--rounds 5]

Without LIBRARY, files of half a second (and of 50 ms for stage 1 alone) are synthesised in a temporary folder. Each
command runs twice as a process of its own, the second time over the unchanged library, and its peak memory is shown.

With LIBRARY, the stages are compared with the usual loops on one core (librosa.load and spectral_flatness; specshow
and savefig for each tile), and with a lower bound: decoding and one torch.stft per file on all cores. Everything is
imported beforehand, except by the commands, which start from nothing. The contenders take turns, and ratios are
medians over rounds. Processor time is shown as well, because other programs on the machine do not change it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convert_to_spectrograms import convert_dataset
from measure_audio_grain import measure_folder
from neural_grain.audio.audio_files import find_audio
from neural_grain.base.parallel import available_cores
from neural_grain.data.metadata import Metadata
from neural_grain.data.tiles import tile_starts
from neural_grain.dsp.settings import TILE_FRAMES

ROOT = Path(__file__).resolve().parents[2]
SR = 44_100
SHORT_S, TINY_S = 0.5, 0.05
N_SOUNDS = 16  # different sounds; each is written to many files
FILES_PER_FOLDER = 1000
RATIOS = (  # two contenders, and the aim for the ratio of their times
    ("plain loop", "stage 1", ">= 4"),
    ("plain loop, 22 kHz", "stage 1", ">= 4"),
    ("plain loop, command", "stage 1, command", ">= 4"),
    ("stage 1", "floor", "<= 1.2"),
    ("specshow loop", "stage 2", ">= 10"),
    ("stage 2, no pictures", "floor", "<= 1.7"),
)


def write_files(folder: Path, n_files: int, duration_s: float) -> None:
    """Add files (a tone and noise, 16 bits, mono) to a library until it holds ``n_files``."""
    sounds, rng = [], np.random.default_rng(0)
    t = np.arange(round(duration_s * SR)) / SR
    for i in range(N_SOUNDS):
        y = 0.3 * np.sin(2 * np.pi * 55 * (i + 2) * t) + 10 ** (-0.2 * i) * 0.1 * rng.standard_normal(len(t))
        sf.write(folder / "sound.wav", y, SR, "PCM_16")
        sounds.append((folder / "sound.wav").read_bytes())
    (folder / "sound.wav").unlink()
    for i in range(n_files):
        path = folder / "library" / f"{i // FILES_PER_FOLDER:04d}" / f"{i:07d}.wav"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sounds[i % N_SOUNDS])


class CommandRun(NamedTuple):
    """A command that has ended."""

    seconds: float
    memory_mb: float  # peak
    counts: str  # the line that says how many files it processed


def run_command(folder: Path, script: str, *args: str) -> CommandRun:
    """Run a stage as a command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    line = process.stdout.readline().decode()
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{script} {args} ended with {os.waitstatus_to_exitcode(status)}")
    return CommandRun(time.perf_counter() - started, usage.ru_maxrss / 1024, line.split(" gone")[0])


def growth(sizes: list[int], duration_s: float, stages: dict[str, tuple[str, ...]]) -> None:
    """Print the table of a library that grows from row to row."""
    print(f"\nfiles of {duration_s:g} s       first run          a file   unchanged          JSON")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_files in sizes:
            write_files(folder, n_files, duration_s)
            for path in folder.glob("*.json"):
                path.unlink()
            for script, args in stages.items():
                first = run_command(folder, script, *args)
                again = run_command(folder, script, *args)
                written = folder / ("metadata.json" if "measure" in script else "training_pairs.json")
                print(
                    f"{n_files:7d} {script[:7]} {first.seconds:7.1f} s {first.memory_mb:5.0f} MB "
                    f"{1000 * first.seconds / n_files:7.2f} ms {again.seconds:6.2f} s {again.memory_mb:5.0f} MB "
                    f"{written.stat().st_size / 1e6:6.1f} MB   ({again.counts})",
                    flush=True,
                )


LOOP = """
import sys, librosa
for path in sys.argv[1:]:
    y, _ = librosa.load(path)
    librosa.feature.spectral_flatness(y=y).mean()
"""


def plain_loop(paths: list[Path], sr: float | None) -> None:
    """The usual loop. librosa mixes to mono, and by default resamples to 22,050 Hz, which halves the samples."""
    import librosa

    for path in paths:
        y, _ = librosa.load(path, sr=sr)
        librosa.feature.spectral_flatness(y=y).mean()


def picture_loop(paths: list[Path], folder: Path) -> None:
    """The usual loop with a picture for each tile."""
    import librosa
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for path in paths:
        y, sr = librosa.load(path, sr=None)
        x = librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=sr), ref=np.max)
        for start in tile_starts(x.shape[1], TILE_FRAMES):
            tile = x[:, start : start + TILE_FRAMES]
            np.save(folder / f"{path.stem}_{start}.npy", tile)
            figure, axes = plt.subplots()
            mesh = librosa.display.specshow(tile, sr=sr, x_axis="time", y_axis="mel", ax=axes)
            figure.colorbar(mesh)
            figure.savefig(folder / f"{path.stem}_{start}.png")
            plt.close(figure)


def lower_bound(paths: list[Path]) -> None:
    """The least that any program must do: decoding, and one transform of each channel, on all cores."""
    import torch

    window = torch.hann_window(2048)

    def transform(path: Path) -> None:
        y, _ = sf.read(path, dtype="float32", always_2d=True)
        torch.stft(torch.from_numpy(np.ascontiguousarray(y.T)), 2048, 512, window=window, return_complex=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each core works on a file of its own
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(transform, paths))
    torch.set_num_threads(threads)


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Wall time of a call in seconds, and processor time of all its threads and processes."""
    started, started_cpu = time.perf_counter(), sum(os.times()[:4])
    function()
    return time.perf_counter() - started, sum(os.times()[:4]) - started_cpu


def make_contenders(library: Path, metadata: Metadata, work: Path) -> dict[str, Callable[[], None]]:
    """What is timed, by its name in the table."""
    paths, jobs = find_audio([library]), available_cores()

    def convert(images: bool) -> None:
        folder = Path(tempfile.mkdtemp(dir=work))  # removed at the end, because removing is not timed
        for name in ("arrays", "images"):
            (folder / name).mkdir()
        output = {"output_dir": folder, "base": folder}
        convert_dataset(metadata.files, metadata.settings, images=images, jobs=jobs, **output)

    def command(*args: str | Path) -> None:
        subprocess.run([sys.executable, *args], cwd=tempfile.mkdtemp(dir=work), capture_output=True, check=True)

    return {
        "floor": lambda: lower_bound(paths),
        "stage 1": lambda: measure_folder([library], jobs=jobs),
        "plain loop": lambda: plain_loop(paths, None),
        "plain loop, 22 kHz": lambda: plain_loop(paths, 22_050),
        "stage 1, command": lambda: command(ROOT / "measure_audio_grain.py", library.absolute()),
        "plain loop, command": lambda: command("-c", LOOP, *paths),
        "stage 2, no pictures": lambda: convert(False),
        "stage 2": lambda: convert(True),
        "specshow loop": lambda: picture_loop([item.path for item in metadata.files], Path(tempfile.mkdtemp(dir=work))),
    }


def ratios(library: Path, rounds: int, work: Path) -> None:
    """Print the times of all contenders, and their ratios."""
    metadata = measure_folder([library], jobs=available_cores()).metadata
    contenders = make_contenders(library, metadata, work)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            if turn or name != "specshow loop":  # the first round fills the caches
                taken[name].append(timed(contender))
    duration_s = sum(item.duration_s for item in metadata.files)
    print(f"{len(find_audio([library]))} files, {duration_s:.0f} s; median of {rounds} rounds")
    for name, values in taken.items():
        wall, cpu = np.median(values[-rounds:], axis=0)
        print(f"  {name:22s} {wall:7.3f} s, {cpu:7.3f} s of processor time")
    for slow, fast, aim in RATIOS:
        wall, cpu = (np.array(taken[slow][-rounds:]) / np.array(taken[fast][-rounds:])).T
        spread = f"{wall.min():.2f} to {wall.max():.2f}"
        print(f"  {slow} / {fast}: {np.median(wall):.2f} ({spread}; aim {aim}); processor time {np.median(cpu):.2f}")


def numbers(text: str) -> list[int]:
    """Parse ``1000,3000``."""
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=numbers, default=[1_000, 3_000, 10_000])
    parser.add_argument("--tiny", type=numbers, default=[10_000, 30_000, 100_000])
    args = parser.parse_args()
    if args.library is not None:
        with tempfile.TemporaryDirectory() as name:
            ratios(args.library, args.rounds, Path(name))
        return
    measure = {"measure_audio_grain.py": ("library",)}
    if args.sizes:
        growth(args.sizes, SHORT_S, {**measure, "convert_to_spectrograms.py": ()})
    if args.tiny:
        growth(args.tiny, TINY_S, measure)


if __name__ == "__main__":
    main()

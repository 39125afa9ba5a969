"""Time and memory of rendering, compared with a bare STFT and its inverse of the same audio.

    python tests/benchmarks/speed.py [--model PATH] [--long] [AUDIO]

The audio is two minutes of stereo at 44.1 kHz, synthesised or AUDIO. The floor is scipy.fft.rfft and irfft over blocks
of windows that fit the cache, on one core and on all. A render is the whole call: reading, pattern, solving, measuring
and writing; "another position" renders the same file again, for which the analysis is reused. All alternate, and the
table shows medians of seconds and of ratios: of wall time, and of processor time, which hardly depends on what else
runs. Then follow the processor times of the parts on one thread, and the times of --help and of rendering one second.
With --long, files of 1, 10 and 60 minutes are rendered, each in a process of its own, with its peak memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import soundfile as sf
from scipy.fft import irfft, rfft

from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.sound import Sound, cached_sound, open_sound
from neural_grain.base.parallel import available_cores, map_in_order
from neural_grain.dsp.analysis import analyse, picture_of
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.layers import split_layers
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.dsp.stft import hann_window

ROOT = Path(__file__).resolve().parents[2]
SR = 44_100
N_FFT = 2048
HOP_LENGTH = 512
BLOCK_FRAMES = 64  # windows of 2048 samples that fit the second-level cache
N_RUNS = 7
LONG_MINUTES = (1, 10, 60)
SCRIPTS = ("measure_audio_grain", "convert_to_spectrograms", "cak_grain_processor", "neural_audio_processor")


def music(duration_s: float, seed: int = 0) -> np.ndarray:
    """Chords that change every two seconds, with soft attacks and breath, in stereo."""
    rng = np.random.default_rng(seed)
    t = np.arange(2 * SR) / SR
    envelope = np.minimum(1, t / 0.05) * np.exp(-t / 1.5)
    parts = []
    for _ in range(8):
        chord = 55 * 2 ** (rng.choice((0, 3, 5, 7, 10, 12, 15, 19), 4, replace=False) / 12)
        y = sum(np.sin(2 * np.pi * hz * k * t + rng.random()) / k for hz in chord for k in range(1, 13))
        breath = 0.01 * rng.standard_normal((len(t), 2))
        hiss = 1e-4 * rng.standard_normal((len(t), 2))
        parts.append(0.04 * (y[:, None] * (1, 0.8) + breath) * envelope[:, None] + hiss)
    phrase = np.concatenate(parts).astype(np.float32)
    return np.tile(phrase, (int(np.ceil(duration_s * SR / len(phrase))), 1))[: round(duration_s * SR)]


def seconds(function: Callable, *args: object, **options: object) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    function(*args, **options)
    return time.perf_counter() - started


def cpu_seconds(function: Callable, *args: object, **options: object) -> float:
    """Processor time of a call, of all its threads."""
    started = time.process_time()
    function(*args, **options)
    return time.process_time() - started


def run_floor(y: np.ndarray, threads: int) -> None:
    """Transform all windows of samples (n_samples, channels) and transform them back."""
    window = hann_window(N_FFT)
    windows = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(y.T), N_FFT, axis=1)[:, ::HOP_LENGTH]
    blocks = (windows[:, i : i + BLOCK_FRAMES] for i in range(0, windows.shape[1], BLOCK_FRAMES))
    for _ in map_in_order(lambda block: irfft(rfft(block * window, axis=-1), N_FFT, axis=-1), blocks, threads):
        pass


def count_renderings(processor: GrainProcessor, audio: Path, octaves: float) -> int:
    """How many times a sound is rendered until it has the requested grain."""
    n_renderings = 0

    def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
        nonlocal n_renderings
        n_renderings += 1
        return cached_sound(like, blocks)

    move_grain(processor.solver(open_sound(audio)), octaves, store=store)
    return n_renderings


def print_ratios(model: Path | None, audio: Path | None, folder: Path) -> None:
    """Print the times of rendering and of the floor, and their ratios."""
    if audio is None:
        audio = folder / "two_minutes.wav"
        sf.write(audio, music(120), SR, "PCM_16")
    y, _ = sf.read(audio, dtype="float32", always_2d=True)
    loaded, output, threads = GrainProcessor.load(model, "cpu").loaded, folder / "out.wav", available_cores()
    rows: dict[str, list[tuple[float, float]]] = {}
    for run in range(N_RUNS + 1):
        processor = GrainProcessor(loaded)  # a new one has no analysis to reuse
        calls = {
            "floor, one core": partial(run_floor, y, 1),
            f"floor, {threads} threads": partial(run_floor, y, threads),
            "render": partial(processor.render_file, audio, output, RenderTarget(-1.0), overwrite=True),
            "another position": partial(processor.render_file, audio, output, RenderTarget(1.0), overwrite=True),
        }
        for name, call in calls.items():
            cpu_started = time.process_time()
            taken = seconds(call), time.process_time() - cpu_started
            if run:  # the first run fills caches
                rows.setdefault(name, []).append(taken)
    one_core, all_cores = (np.array(values) for values in list(rows.values())[:2])
    print(
        f"{len(y) / SR:.0f} s, {y.shape[1]} channels; seconds, median of {N_RUNS}; ratio to the floor on one core, "
        f"on {threads} threads; of processor time on one core"
    )
    for name, values in rows.items():
        wall, cpu = np.array(values).T
        ratios = [
            float(np.median(ratio)) for ratio in (wall / one_core[:, 0], wall / all_cores[:, 0], cpu / one_core[:, 1])
        ]
        print(f"  {name:22s} {np.median(wall):6.3f}   " + "   ".join(f"{ratio:5.2f}" for ratio in ratios))
    print(f"  renderings at -1: {count_renderings(GrainProcessor(loaded), audio, -1.0)}")
    print_parts(open_sound(audio), y)


def print_parts(sound: Sound, y: np.ndarray) -> None:
    """Print the processor times of the parts on one thread, in units of the floor: medians."""
    settings = default_settings(GrainSettings())
    analysis = analyse(sound, settings)
    solver = AmountSolver(GainField(analysis))
    amounts = solver.estimate(-1.0)
    parts = {
        "picture": lambda: picture_of(sound, settings),
        "split into layers": lambda: split_layers(sound, settings.grain),
        "analysis with the split": lambda: analyse(sound, settings),
        "curve of one direction": lambda: AmountSolver(solver.field).reach(-1.0),
        "solving on it": lambda: solver.solve(-1.0),
        "rendering": lambda: deque(solver.field.render(amounts), 0),
        "measuring": lambda: measure_grain(sound),
    }
    print("processor time on one thread, in floors")
    for name, part in parts.items():
        runs = [cpu_seconds(part) * 2 / (cpu_seconds(run_floor, y, 1) + cpu_seconds(run_floor, y, 1)) for _ in range(3)]
        print(f"  {name:24s} {np.median(runs):5.2f}", flush=True)


def render_long_file(minutes: float, model: Path | None) -> None:
    """Render a synthesised file in this process, and print the time and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "long.wav")
        minute = music(60)
        with sf.SoundFile(source, "w", SR, 2, "PCM_16") as file:
            for _ in range(round(minutes)):
                file.write(minute)
        processor = GrainProcessor.load(model, "cpu")
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        taken_s = seconds(processor.render_file, source, Path(folder, "out.wav"), RenderTarget(-1.0))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        per_minute = f"{taken_s / minutes:6.2f} s a minute"
        print(
            f"  {minutes:4.0f} min {taken_s:7.1f} s {per_minute}, peak {peak_mb:5.0f} MB ({before_mb:.0f} MB before)",
            flush=True,
        )


def print_start_times(model: Path | None, folder: Path) -> None:
    """Print the seconds from a command to its help, to one rendered second, and to an imported torch."""
    sf.write(folder / "second.wav", music(1.0), SR, "PCM_16")

    def median_seconds(*args: str) -> float:
        command = [sys.executable, *args]
        runs = [seconds(subprocess.run, command, stdout=subprocess.DEVNULL, check=True, cwd=folder) for _ in range(5)]
        return float(np.median(runs))

    print("seconds from the command, median of 5")
    for script in SCRIPTS:
        print(f"  {script}.py --help   {median_seconds(str(ROOT / f'{script}.py'), '--help'):.2f}")
    print(f"  python -c 'import torch'   {median_seconds('-c', 'import torch'):.2f}")
    options = ("--grain", "-1", "--overwrite", *(("--model", str(model.absolute())) if model else ()))
    rendered_s = median_seconds(str(ROOT / "neural_audio_processor.py"), "second.wav", *options)
    print(f"  one second rendered   {rendered_s:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, help="a trained model; the built-in pattern without it")
    parser.add_argument("--long", action="store_true", help="also render files of up to an hour")
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.minutes:
        render_long_file(args.minutes, args.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        print_ratios(args.model, args.audio, Path(folder))
        print_start_times(args.model, Path(folder))
    if args.long:
        print("long files, each in a process of its own, at -1", flush=True)
        for minutes in LONG_MINUTES:
            model = ("--model", str(args.model)) if args.model else ()
            subprocess.run([sys.executable, __file__, "--minutes", str(minutes), *model], check=True)


if __name__ == "__main__":
    main()

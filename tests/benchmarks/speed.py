"""How long rendering takes, and how much memory, against a blocked STFT and its inverse of the same audio.

    python tests/benchmarks/speed.py [--model PATH] [--long] [AUDIO]

Two minutes of stereo at 44.1 kHz (synthesised, or AUDIO): the floor is scipy.fft.rfft and irfft over
cache-sized blocks of windows on one core and on all; a render is the whole call: reading, pattern, solve,
measuring, writing. Ratios are medians over runs in which both alternate. --long: 1, 10 and 60 minutes,
each in a process of its own, with its peak memory. Then: --help, and from the command to the first second.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.fft import irfft, rfft

from neural_grain.app.processor import DEFAULT_MODEL, GrainProcessor, RenderTarget
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.stft import hann_window

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


ROOT = Path(__file__).resolve().parents[2]
SR = 44_100
N_RUNS = 7


def music(duration_s: float, seed: int = 0) -> np.ndarray:
    """Chords that change every two seconds, soft attacks and breath, stereo."""
    rng = np.random.default_rng(seed)
    t = np.arange(2 * SR) / SR
    envelope = np.minimum(1, t / 0.05) * np.exp(-t / 1.5)
    parts = []
    for _ in range(8):
        chord = 55 * 2 ** (rng.choice((0, 3, 5, 7, 10, 12, 15, 19), 4, replace=False) / 12)
        y = sum(np.sin(2 * np.pi * hz * k * t + rng.random()) / k for hz in chord for k in range(1, 13))
        breath = 0.01 * rng.standard_normal((len(t), 2))
        parts.append(
            0.04 * (y[:, None] * (1, 0.8) + breath) * envelope[:, None] + 1e-4 * rng.standard_normal((len(t), 2))
        )
    piece = np.concatenate(parts).astype(np.float32)
    return np.tile(piece, (int(np.ceil(duration_s * SR / len(piece))), 1))[: round(duration_s * SR)]


def floor_s(y: np.ndarray, threads: int) -> float:
    """Seconds of the transform and its inverse, in blocks of 64 windows, which fit the second-level cache."""
    window, n = hann_window(2048), 64
    started = time.perf_counter()
    windows = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(y.T), 2048, axis=1)[:, ::512]
    blocks = (windows[:, i : i + n] for i in range(0, windows.shape[1], n))
    for _ in map_in_order(lambda windows: irfft(rfft(windows * window, axis=-1), 2048, axis=-1), blocks, threads):
        pass
    return time.perf_counter() - started


def seconds(function, *args, **options) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    function(*args, **options)
    return time.perf_counter() - started


def ratios(model: Path, audio: Path | None, folder: Path) -> None:
    """Table of the first part."""
    if audio is None:
        audio = folder / "two_minutes.wav"
        sf.write(audio, music(120), SR, "PCM_16")
    y, _ = sf.read(audio, dtype="float32", always_2d=True)
    processor = GrainProcessor.load(model, "cpu")
    threads = os.cpu_count() or 1
    rows: dict[str, list[float]] = {}
    for run in range(N_RUNS + 1):
        processor._last = None
        first = seconds(processor.render_file, audio, folder / "out.wav", RenderTarget(-1.0), overwrite=True)
        second = seconds(processor.render_file, audio, folder / "out.wav", RenderTarget(1.0), overwrite=True)
        one, many = floor_s(y, 1), floor_s(y, threads)
        if run:  # the first warms up
            for name, value in (
                ("floor, one core", one),
                (f"floor, {threads} threads", many),
                ("render", first),
                ("another grain", second),
            ):
                rows.setdefault(name, []).append(value)
    medians = {name: float(np.median(values)) for name, values in rows.items()}
    names = list(medians)
    print(
        f"{len(y) / SR:.0f} s, {y.shape[1]} channels; seconds, median of {N_RUNS}; ratio to the floor on one core, on {threads} threads"
    )
    for name, value in medians.items():
        by_one, by_many = (np.median(np.array(rows[name]) / np.array(rows[names[i]])) for i in (0, 1))
        print(f"  {name:22s} {value:6.3f}   {by_one:5.2f}   {by_many:5.2f}")
    solver = processor._last[1]
    print(f"  attempts in a render are counted by grain: got {move_grain(solver, -1.0).got_octaves:+.4f} for -1")


def long_file(minutes: float, model: Path) -> None:
    """Render a synthesised file of some minutes in this process and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "long.wav")
        piece = music(60)
        with sf.SoundFile(source, "w", SR, 2, "PCM_16") as file:
            for _ in range(round(minutes)):
                file.write(piece)
        processor = GrainProcessor.load(model, "cpu")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        taken = seconds(processor.render_file, source, Path(folder, "out.wav"), RenderTarget(-1.0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"  {minutes:4.0f} min {taken:7.1f} s {taken / minutes:6.2f} s a minute, peak {peak:5.0f} MB ({before:.0f} MB before)",
            flush=True,
        )


def starts(model: Path, folder: Path) -> None:
    """Seconds until --help, and until a second of sound is rendered, from the command; and importing torch."""
    sf.write(folder / "second.wav", music(1.0), SR, "PCM_16")

    def run(*args: str) -> float:
        return float(
            np.median(
                [seconds(subprocess.run, args, stdout=subprocess.DEVNULL, check=True, cwd=folder) for _ in range(5)]
            )
        )

    print("seconds from the command, median of 5")
    for script in ("measure_audio_grain", "convert_to_spectrograms", "cak_grain_processor", "neural_audio_processor"):
        print(f"  {script}.py --help   {run(sys.executable, str(ROOT / f'{script}.py'), '--help'):.2f}")
    print(f"  python -c 'import torch'   {run(sys.executable, '-c', 'import torch'):.2f}")
    command = (
        str(ROOT / "neural_audio_processor.py"),
        "second.wav",
        "--grain",
        "-1",
        "--overwrite",
        "--model",
        str(model.absolute()),
    )
    print(f"  one second rendered   {run(sys.executable, *command):.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.minutes:
        long_file(args.minutes, args.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        ratios(args.model, args.audio, Path(folder))
        starts(args.model, Path(folder))
    if args.long:
        print("a long file in a process of its own, -1")
        for minutes in (1, 10, 60):
            subprocess.run(
                [sys.executable, __file__, "--minutes", str(minutes), "--model", str(args.model)], check=True
            )


if __name__ == "__main__":
    main()

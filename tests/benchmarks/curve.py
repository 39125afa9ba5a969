"""The slider over time: how exactly each second of a sound follows a curve, what it costs, and whether it clicks.

    python tests/benchmarks/curve.py LIBRARY [--files 20] [--mixtures 10] [--model PATH] [-v]

Three curves (a ramp from -2 to +2 over 8 s and back, a sine of 0.25 Hz and 1.5 octaves, steps of 2 s) on files of a
library, looped to 16 s, and on mixtures of noises and tones that this program makes. The error of a second is the
distance between requested and measured octaves; seconds that are silent or out of reach are counted apart. Clicks: the
largest difference of neighbouring samples, relative to the largest in the input and in renderings at the constant
positions that the curve passes. Time: analysis and rendering, relative to that of one constant position.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import soundfile as sf
from scipy.signal import lfilter

from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.audio_files import find_audio
from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.curve import GrainCurve, Lfo
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.move_curve import CurveSolver, move_along

SR, DURATION_S = 44_100, 16
CEILING = 10.0  # so that no limiter hides a click
STEPS = (-2.0, 1.0, 0.0, 2.0, -1.0, 0.0, 1.5, -1.5)
JUMP_S = 1e-3


def curves() -> dict[str, GrainCurve]:
    """The curves of the table."""
    steps = [(2 * i + (JUMP_S if i else 0), octaves) for i, octaves in enumerate(STEPS)]
    ends = [(2.0 * i + 2, octaves) for i, octaves in enumerate(STEPS)]
    return {
        "ramp": GrainCurve.of([(0, -2), (8, 2), (16, -2)]),
        "sine": Lfo(0.25, 1.5).for_duration(DURATION_S),
        "steps": GrainCurve.of(sorted(steps + ends)),
    }


def mixture(seed: int) -> np.ndarray:
    """A chord that changes, with noise of another colour and level in every part, and clicks in some."""
    rng, t = np.random.default_rng(seed), np.arange(DURATION_S * SR) / SR
    y = np.zeros(len(t))
    for start in range(0, DURATION_S, 4):
        part = (t >= start) & (t < start + 4)
        root_hz = rng.uniform(80, 220)
        for ratio in (1, 1.25, 1.5):
            for k in range(1, 20):
                y[part] += k ** -rng.uniform(1, 1.6) * np.sin(
                    2 * np.pi * (root_hz * ratio * k * t[part] + rng.random())
                )
        colour = lfilter([1], [1, -rng.uniform(0, 0.95)], rng.standard_normal(part.sum()))
        y[part] += 10 ** rng.uniform(-3, -0.5) * colour / colour.std()
        if rng.random() < 0.4:
            y[part] += (rng.random(part.sum()) < 3 / SR) * 2.0
    fade = np.minimum(1, np.minimum(t, DURATION_S - t) / 0.05)
    return 0.3 * fade * y / np.abs(y).max()


def sounds(args: argparse.Namespace) -> dict[str, tuple[np.ndarray, int]]:
    """Samples and rate of every sound of the table."""
    files = find_audio([args.library])
    chosen = files[:: max(1, len(files) // args.files)][: args.files]
    found = {}
    for path in chosen:
        y, sr = sf.read(path, always_2d=True)
        n = DURATION_S * sr
        found[path.name] = np.tile(y, (-(-n // len(y)), 1))[:n], sr
    return found | {f"mixture {seed}": (mixture(seed), SR) for seed in range(args.mixtures)}


def largest_jump(sound: Sound) -> float:
    """The largest difference of neighbouring samples."""
    return float(np.abs(np.diff(np.concatenate(list(sound.blocks())), axis=0)).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--mixtures", type=int, default=10)
    parser.add_argument("--model", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="print a line for every sound and curve")
    args = parser.parse_args()
    processor = GrainProcessor.load(args.model, "cpu")
    processor.threads = 1
    errors, states, times, jumps, levels = (defaultdict(list) for _ in range(5))
    for name, (y, sr) in sounds(args).items():
        sound = sound_from_array(y, sr)
        start = time.process_time()
        solver = processor.solver(sound)
        analysis_s = time.process_time() - start
        constant_s, jump = [], largest_jump(sound)
        for octaves in (-2.0, -1.0, 1.0, 2.0):
            start = time.process_time()
            jump = max(jump, largest_jump(move_grain(solver, octaves, ceiling=CEILING).sound))
            constant_s.append(time.process_time() - start)
        for curve_name, curve in curves().items():
            start = time.process_time()
            rendering = move_along(CurveSolver(solver), curve, ceiling=CEILING)
            duration_s = time.process_time() - start
            found = rendering.contour.errors()
            errors[curve_name] += list(found)
            states[curve_name] += rendering.contour.states
            times[curve_name].append((analysis_s + duration_s) / (analysis_s + np.mean(constant_s)))
            jumps[curve_name].append(largest_jump(rendering.sound) / jump)
            levels[curve_name].append(abs(rendering.level_db))
            if args.verbose:
                figures = f"{np.median(found):.3f} {found.max():.3f}" if len(found) else "-"
                print(
                    f"{name:26s} {curve_name:6s} {len(found):3d} seconds: {figures}   jump {jumps[curve_name][-1]:.2f}"
                    f"   time {times[curve_name][-1]:.2f}   level {rendering.level_db:+.2f} dB",
                    flush=True,
                )
    print(
        "curve   seconds within reach   median    95 %    99 %   max   missed | jump: largest | time: median, largest | level"
    )
    for name in errors:
        median, high, higher = np.percentile(errors[name], (50, 95, 99))
        print(
            f"{name:6s} {len(errors[name]):5d} of {len(states[name]):5d}        {median:8.4f}{high:8.4f}{higher:8.4f}"
            f"{max(errors[name]):7.3f} {states[name].count('missed'):5d}   | {max(jumps[name]):.2f} | "
            f"{np.median(times[name]):.2f} {max(times[name]):.2f} | {np.percentile(levels[name], 95):.2f}"
        )


if __name__ == "__main__":
    main()

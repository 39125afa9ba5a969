"""What rendering adds that it should not: sound before a click, gains that flutter with a noise, a change of loudness.

    python tests/benchmarks/transparency.py [--model PATH] [--expander] [--library FOLDER]

Before a click: largest sample that the render adds in the 20 ms before it (to 0.5 ms before), relative to
the click's; over a drone, what is there without the click, moved by the same amounts, is taken away first.
Flutter: standard deviation over time of each band's gain, mean and largest over the bands.
--library: on its files, the difference to the input at +-0.01; and at +-1 and +-3 what happens to the
stereo image (level between the channels wherever both are within 40 dB of the loudest bin or band),
to DC (the output's mean, where the input's is 60 dB under its RMS) and to the first and last sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np

from neural_grain.app.processor import DEFAULT_MODEL
from neural_grain.audio.sound import find_audio, open_sound, sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gains import Amounts, spectral_expander
from neural_grain.dsp.mel import band_powers_of
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.learn.checkpoint import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


SR = 44_100
BEFORE_S, CLEAR_S = 0.02, 0.0005
POSITIONS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)


def drone(duration_s: float = 4.0, texture_db: float = -50.0) -> np.ndarray:
    """Eight partials and a little noise."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.2 / k * np.sin(2 * np.pi * 110 * k * t) for k in range(1, 9))
    return y + 0.2 * 10 ** (texture_db / 20) * np.random.default_rng(0).standard_normal(len(y))


def with_click(y: np.ndarray) -> tuple[np.ndarray, int]:
    """A click, one sample, in the middle: all frequencies alike."""
    at, y = len(y) // 2, y.copy()
    y[at] += 0.7
    return y, at


def chord(duration_s: float = 6.0) -> np.ndarray:
    """Three steady notes of six partials each, over noise 70 dB below."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.1 / k * np.sin(2 * np.pi * hz * k * t) for hz in (220, 277.18, 329.63) for k in range(1, 7))
    return y + 0.1 * 10 ** (-70 / 20) * np.random.default_rng(1).standard_normal(len(y))


def amounts_and_samples(solver: AmountSolver, octaves: float) -> tuple[Amounts, np.ndarray, float]:
    """What `move_grain` does at a position; the amounts that the solver gives for what it got."""
    rendering = move_grain(solver, octaves)
    reach = solver.reach(np.sign(octaves))
    amounts = reach.at(solver.solve(rendering.got_octaves))
    return amounts, np.concatenate(list(rendering.sound.blocks()))[:, 0], rendering.got_octaves


def before_click_db(quiet: np.ndarray, pattern: Callable, settings, octaves: float) -> tuple[float, float]:
    """Largest sample added before the click, dB under the click; and the octaves that were got."""
    y, at = with_click(quiet)
    solver = solver_of(y, pattern, settings)
    amounts, _, got = amounts_and_samples(solver, octaves)

    def moved(z: np.ndarray, its: AmountSolver) -> np.ndarray:
        return np.concatenate(list(its.render(amounts)))[:, 0]

    added = moved(y, solver)
    if quiet.any():
        alone = solver_of(quiet, pattern, settings, like=solver)
        added = added - moved(quiet, alone)
    window = slice(at - round(BEFORE_S * SR), at - round(CLEAR_S * SR))
    return 20 * np.log10(np.abs(added[window]).max() / abs(y[at]) + 1e-9), got


def solver_of(y: np.ndarray, pattern: Callable, settings, like: AmountSolver | None = None) -> AmountSolver:
    """A solver for samples."""
    analysis = analyse(sound_from_array(y, SR), settings)
    return AmountSolver(analysis, pattern(analysis))


def flutter_db(y: np.ndarray, pattern: Callable, settings, octaves: float) -> tuple[float, float, float, float]:
    """Standard deviation over time of each band's gain: mean and largest; octaves got, and how much expander."""
    solver = solver_of(y, pattern, settings)
    amounts, _, got = amounts_and_samples(solver, octaves)
    gain_db = solver.gain_db(amounts)
    edge = gain_db.shape[1] // 8
    deviation = gain_db[:, edge:-edge].std(axis=1)
    return float(deviation.mean()), float(deviation.max()), got, amounts.expander


def mean_squares_db(z: np.ndarray) -> float:
    """Level of samples in dB, full scale 1.0."""
    return 10 * np.log10(np.mean(np.square(z, dtype=np.float64)) + 1e-30)


def image_db(y: np.ndarray, z: np.ndarray, sr: int, settings) -> dict[str, np.ndarray]:
    """By how many dB the level between the first two channels changed, wherever both were and are loud enough."""
    n_fft, hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)

    def change(levels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        before, after = (
            10 * np.log10(np.stack([levels(np.ascontiguousarray(c)) for c in x.T[:2]]) + 1e-20) for x in (y, z)
        )
        loud = np.all([pair.min(axis=0) > pair.max() - 40 for pair in (before, after)], axis=0)
        return np.abs((after[0] - after[1]) - (before[0] - before[1]))[loud]

    def bins(x: np.ndarray) -> np.ndarray:
        return np.square(np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop_length)))

    def bands(x: np.ndarray) -> np.ndarray:
        return band_powers_of(sound_from_array(x, sr), settings)

    return {
        "of each bin and frame": change(bins),
        "of each band and frame": change(bands),
        "of each band, whole file": change(lambda x: bands(x).mean(axis=0)),
    }


def on_a_library(folder: Path, pattern: Callable, settings) -> None:
    """Print the worst and the usual of all its files."""
    near: dict[str, float] = {}
    image, constant, edges = {}, {}, {}
    for path in find_audio([folder]):
        sound = open_sound(path)
        analysis = analyse(sound, settings)
        solver, y = AmountSolver(analysis, pattern(analysis)), np.concatenate(list(sound.blocks()))

        def moved(octaves: float, solver: AmountSolver = solver) -> np.ndarray:
            return np.concatenate(list(move_grain(solver, octaves).sound.blocks()))

        near[path.name] = max(mean_squares_db(moved(s) - y) for s in (-0.01, 0.01)) - mean_squares_db(y)
        for octaves in (-3.0, -1.0, 1.0, 3.0):
            z, name = moved(octaves), f"{path.name} at {octaves:+g}"
            if sound.channels > 1:
                for what, change in image_db(y, z, sound.sr, settings).items():
                    image.setdefault(what, []).append(change)
            if mean_squares_db(y.mean(axis=0)) < mean_squares_db(z) - 60:
                constant[name] = mean_squares_db(z.mean(axis=0)) - mean_squares_db(z)
            edges[name] = 20 * np.log10(np.abs(z - y)[[0, -1]].max() / np.abs(y).max() + 1e-9)
    for what, values in (
        ("difference at +-0.01, dB under the input", near),
        ("mean (DC), dB under the RMS", constant),
        ("first and last sample: change, dB under the peak", edges),
    ):
        worst = max(values, key=values.get)
        print(f"{what:66s} median {np.median(list(values.values())):6.1f}, worst {values[worst]:6.1f} ({worst})")
    for what, changes in image.items():
        at = np.percentile(np.concatenate(changes), (50, 95, 99))
        name = f"level between channels {what}: change in dB"
        print(f"{name:66s} median {at[0]:.3f}, 95th {at[1]:.3f}, 99th {at[2]:.3f} percentile")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("--expander", action="store_true", help="the spectral expander instead of a model")
    parser.add_argument("--library", type=Path, help="only the figures of these files")
    args = parser.parse_args()
    if args.expander:
        settings = default_settings(GrainSettings())

        def pattern(analysis) -> np.ndarray:
            n = -(-analysis.x.shape[1] // 32)
            level = np.stack([analysis.x[:, 32 * i : 32 * i + 32].mean(1) for i in range(n)], axis=1)
            return spectral_expander(80 * level)
    else:
        loaded = load_model(args.model)
        settings = loaded.settings

        def pattern(analysis) -> np.ndarray:
            return loaded.pattern_db(analysis.x)

    if args.library:
        on_a_library(args.library, pattern, settings)
        return
    print("added before a click, dB under it (octaves got):   " + "  ".join(f"{s:+.0f}            " for s in POSITIONS))
    for name, quiet in (
        ("in silence", np.zeros(2 * SR)),
        ("over a drone", drone()),
        ("over noise", 0.003 * np.random.default_rng(3).standard_normal(2 * SR)),
    ):
        cells = ["{:6.1f} ({:+.2f})".format(*before_click_db(quiet, pattern, settings, s)) for s in POSITIONS]
        print(f"  {name:47s}" + "  ".join(cells))
    print("standard deviation over time of the bands' gains, dB: mean, largest (octaves got, expander)")
    noise = 0.1 * np.random.default_rng(2).standard_normal(6 * SR)
    sounds = {"white noise": noise, "chord": chord(), "drone": drone()}
    for name, octaves in (("white noise", 3.0), ("white noise", 1.0), ("chord", -3.0), ("chord", -1.0), ("drone", 3.0)):
        row = flutter_db(sounds[name], pattern, settings, octaves)
        print("  {:20s} {:5.2f}  {:5.2f}   ({:+.2f}, {:.2f})".format(f"{name} at {octaves:+g}", *row))


if __name__ == "__main__":
    main()

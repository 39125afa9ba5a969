"""Side effects of rendering: sound before a click, gains that flutter with a noise, and changes of image, DC and ends.

    python tests/benchmarks/transparency.py [--model PATH] [--expander] [--library FOLDER]

Before a click: the largest sample that rendering adds in the 20 ms before it (up to 0.5 ms before), relative to the
click. Over a drone or a noise, the same sound without the click, rendered with the same amounts, is subtracted first.
Flutter: the standard deviation over time of each band's gain, its mean and its maximum over the bands.
With --library, on the files of a folder: the difference between output and input at -0.01 and +0.01; and at -1, +1, -3
and +3 the change of the stereo image (the level between the channels where both are within 40 dB of the loudest), the
DC of the output where that of the input is 60 dB below its RMS, and the change of the first and the last sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import librosa
import numpy as np

from neural_grain.app.processor import DEFAULT_MODEL
from neural_grain.audio.sound import Sound, find_audio, open_sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse, bands_and_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts, spectral_expander
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import CELL_FRAMES, GrainSettings, SpectrogramSettings, default_settings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.learn.checkpoint import load_model

SR = 44_100
BEFORE_S = 0.02
CLEAR_S = 0.0005
NEAR_ZERO_OCTAVES = (-0.01, 0.01)
POSITIONS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
LIBRARY_POSITIONS = (-3.0, -1.0, 1.0, 3.0)


class Moved(NamedTuple):
    """The amounts that the solver gives for what a rendering achieved, and the octaves achieved."""

    amounts: Amounts
    octaves: float


@dataclass(frozen=True)
class Method:
    """Settings, and a function from an analysis to a pattern in dB: a trained model or the expander."""

    settings: SpectrogramSettings
    pattern_db: Callable[[Analysis], np.ndarray]

    def solver(self, sound: Sound) -> AmountSolver:
        """A solver for a sound."""
        analysis = analyse(sound, self.settings)
        return AmountSolver(GainField(analysis, self.pattern_db(analysis)))


@dataclass
class LibraryFigures:
    """What was measured on the files of a library: dB by file or rendering, and image changes by resolution."""

    near_zero_db: dict[str, float] = field(default_factory=dict)
    dc_db: dict[str, float] = field(default_factory=dict)
    ends_db: dict[str, float] = field(default_factory=dict)
    image_db: dict[str, list[np.ndarray]] = field(default_factory=dict)


def expander_pattern_db(analysis: Analysis) -> np.ndarray:
    """The spectral expander in the form of a learned pattern."""
    starts = range(0, analysis.x.shape[1], CELL_FRAMES)
    cells = np.stack([analysis.x[:, start : start + CELL_FRAMES].mean(axis=1) for start in starts], axis=1)
    return spectral_expander(80 * cells)


def drone(duration_s: float = 4.0, texture_db: float = -50.0) -> np.ndarray:
    """Eight partials and a little noise."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.2 / k * np.sin(2 * np.pi * 110 * k * t) for k in range(1, 9))
    return y + 0.2 * 10 ** (texture_db / 20) * np.random.default_rng(0).standard_normal(len(y))


def chord(duration_s: float = 6.0) -> np.ndarray:
    """Three steady notes of six partials each, and noise 70 dB below."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.1 / k * np.sin(2 * np.pi * hz * k * t) for hz in (220, 277.18, 329.63) for k in range(1, 7))
    return y + 0.1 * 10 ** (-70 / 20) * np.random.default_rng(1).standard_normal(len(y))


def samples_of(sound: Sound) -> np.ndarray:
    """All samples of a sound, shape (n_samples, channels)."""
    return np.concatenate(list(sound.blocks()))


def move(solver: AmountSolver, octaves: float) -> Moved:
    """What `move_grain` achieves for some octaves."""
    achieved = move_grain(solver, octaves).achieved_octaves
    return Moved(solver.reach(octaves).amounts_at(solver.solve(achieved)), achieved)


def level_before_click(background: np.ndarray, method: Method, octaves: float) -> tuple[float, float]:
    """Level of the largest sample that is added before a click, in dB below the click, and the octaves achieved."""
    at, y = len(background) // 2, background.copy()
    y[at] += 0.7
    solver = method.solver(sound_from_array(y, SR))
    moved = move(solver, octaves)
    added = np.concatenate(list(solver.field.render(moved.amounts)))[:, 0]
    if background.any():
        alone = method.solver(sound_from_array(background, SR))
        added = added - np.concatenate(list(alone.field.render(moved.amounts)))[:, 0]
    window = slice(at - round(BEFORE_S * SR), at - round(CLEAR_S * SR))
    return 20 * np.log10(np.abs(added[window]).max() / abs(y[at]) + 1e-9), moved.octaves


def flutter(y: np.ndarray, method: Method, octaves: float) -> str:
    """Mean and largest standard deviation of the bands' gains, the octaves achieved, and the expander's amount."""
    solver = method.solver(sound_from_array(y, SR))
    moved = move(solver, octaves)
    gain_db = solver.field.gain_db(moved.amounts)
    edge = gain_db.shape[1] // 8
    deviation_db = gain_db[:, edge:-edge].std(axis=1)
    figures = f"{deviation_db.mean():5.2f}  {deviation_db.max():5.2f}"
    return f"{figures}   ({moved.octaves:+.2f}, {moved.amounts.expander:.2f})"


def rms_db(y: np.ndarray) -> float:
    """RMS level in dB relative to full scale."""
    return 10 * np.log10(np.mean(np.square(y, dtype=np.float64)) + 1e-30)


def image_change_db(y: np.ndarray, z: np.ndarray, sr: int, settings: SpectrogramSettings) -> dict[str, np.ndarray]:
    """Change of the level between the first two channels, wherever both are loud enough before and after."""
    n_fft, hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)

    def change(powers: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        before, after = (
            10 * np.log10(np.stack([powers(np.ascontiguousarray(channel)) for channel in x.T[:2]]) + 1e-20)
            for x in (y, z)
        )
        is_loud = np.all([pair.min(axis=0) > pair.max() - 40 for pair in (before, after)], axis=0)
        return np.abs((after[0] - after[1]) - (before[0] - before[1]))[is_loud]

    def bins(x: np.ndarray) -> np.ndarray:
        return np.square(np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop_length)))

    def bands(x: np.ndarray) -> np.ndarray:
        return bands_and_grain(sound_from_array(x, sr), settings).bands

    return {
        "of each bin and frame": change(bins),
        "of each band and frame": change(bands),
        "of each band, whole file": change(lambda x: bands(x).mean(axis=0)),
    }


def measure_file(path: Path, method: Method, figures: LibraryFigures) -> None:
    """Render one file and add its figures."""
    sound = open_sound(path)
    solver, y = method.solver(sound), samples_of(sound)
    near = [samples_of(move_grain(solver, octaves).sound) for octaves in NEAR_ZERO_OCTAVES]
    figures.near_zero_db[path.name] = max(rms_db(z - y) for z in near) - rms_db(y)
    for octaves in LIBRARY_POSITIONS:
        z, name = samples_of(move_grain(solver, octaves).sound), f"{path.name} at {octaves:+g}"
        if sound.channels > 1:
            for resolution, change_db in image_change_db(y, z, sound.sr, method.settings).items():
                figures.image_db.setdefault(resolution, []).append(change_db)
        if rms_db(y.mean(axis=0)) < rms_db(z) - 60:
            figures.dc_db[name] = rms_db(z.mean(axis=0)) - rms_db(z)
        figures.ends_db[name] = 20 * np.log10(np.abs(z - y)[[0, -1]].max() / np.abs(y).max() + 1e-9)


def print_library(folder: Path, method: Method) -> None:
    """Print medians and worst cases of the files of a folder."""
    figures = LibraryFigures()
    for path in find_audio([folder]):
        measure_file(path, method, figures)
    for title, values in (
        ("difference at +-0.01, dB relative to the input", figures.near_zero_db),
        ("DC, dB relative to the RMS", figures.dc_db),
        ("change of the first and last sample, dB relative to the peak", figures.ends_db),
    ):
        worst = max(values, key=values.get)
        print(f"{title:66s} median {np.median(list(values.values())):6.1f}, worst {values[worst]:6.1f} ({worst})")
    for resolution, changes_db in figures.image_db.items():
        median, percentile_95, percentile_99 = np.percentile(np.concatenate(changes_db), (50, 95, 99))
        title = f"level between channels {resolution}: change in dB"
        print(f"{title:66s} median {median:.3f}, 95th {percentile_95:.3f}, 99th {percentile_99:.3f} percentile")


def print_synthetic(method: Method) -> None:
    """Print the figures of synthesised sounds."""
    heads = "  ".join(f"{octaves:+.0f}            " for octaves in POSITIONS)
    print("added before a click, dB relative to it (octaves achieved):   " + heads)
    for name, background in (
        ("in silence", np.zeros(2 * SR)),
        ("over a drone", drone()),
        ("over noise", 0.003 * np.random.default_rng(3).standard_normal(2 * SR)),
    ):
        cells = ["{:6.1f} ({:+.2f})".format(*level_before_click(background, method, octaves)) for octaves in POSITIONS]
        print(f"  {name:58s}" + "  ".join(cells))
    print("standard deviation over time of the bands' gains, dB: mean, largest (octaves achieved, expander)")
    noise = 0.1 * np.random.default_rng(2).standard_normal(6 * SR)
    sounds = {"white noise": noise, "chord": chord(), "drone": drone()}
    for name, octaves in (("white noise", 3.0), ("white noise", 1.0), ("chord", -3.0), ("chord", -1.0), ("drone", 3.0)):
        print(f"  {f'{name} at {octaves:+g}':20s} {flutter(sounds[name], method, octaves)}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("--expander", action="store_true", help="use the spectral expander instead of a model")
    parser.add_argument("--library", type=Path, help="measure only the files of this folder")
    args = parser.parse_args()
    if args.expander:
        method = Method(default_settings(GrainSettings()), expander_pattern_db)
    else:
        loaded = load_model(args.model)
        method = Method(loaded.settings, lambda analysis: loaded.pattern_db(analysis.x))
    if args.library:
        print_library(args.library, method)
    else:
        print_synthetic(method)


if __name__ == "__main__":
    main()

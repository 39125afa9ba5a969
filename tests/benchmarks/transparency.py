"""Side effects of rendering: what comes before a start, flutter, pumping, the stereo image, clipping, DC and ends.

    python tests/benchmarks/transparency.py [--model PATH] [--channels 1,2,4,8] [--library FOLDER]

Before a start: the largest sample that rendering adds in the 20 ms before it (up to 0.5 ms before), relative to the peak
of what starts. Where something else sounds there, the same without the start is rendered with the same amounts and
subtracted. With several channels the start is in the last one, and drones are in the others.
Flutter: the standard deviation over time of each band's gain of noise and tones; its mean and its maximum over bands.
Pumping: a steady pad in one channel and drums in the other; the range of the pad's level over time and the change of the
level between the channels, both over windows of 93 ms.
Clipping: loud drones as OGG, MP3 and Opus; the largest decoded sample of the input and of the outputs.
With --library, on the files of a folder: the difference between output and input at -0.01 and +0.01; and at -1, +1, -3
and +3 the change of the stereo image (the level between the channels where both are within 40 dB of the loudest), the
DC of the output where that of the input is 60 dB below its RMS, and the change of the first and the last sample.
Without --model the built-in pattern is used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import librosa
import numpy as np
import soundfile as sf
from rendering import rendered, samples_of

from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.audio_files import find_audio
from neural_grain.audio.sound import open_sound, sound_from_array
from neural_grain.dsp.analysis import bands_and_grain
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import SpectrogramSettings

SR = 44_100
BEFORE_S = 0.02
CLEAR_S = 0.0005
START_S = 1.2
LEVEL_WINDOW = 4_096
NEAR_ZERO_OCTAVES = (-0.01, 0.01)
POSITIONS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
LIBRARY_POSITIONS = (-3.0, -1.0, 1.0, 3.0)


@dataclass
class LibraryFigures:
    """What was measured on the files of a library: dB by file or rendering, and image changes by resolution."""

    near_zero_db: dict[str, float] = field(default_factory=dict)
    dc_db: dict[str, float] = field(default_factory=dict)
    ends_db: dict[str, float] = field(default_factory=dict)
    image_db: dict[str, list[np.ndarray]] = field(default_factory=dict)


def drone(duration_s: float = 2.0, texture_db: float = -50.0, root_hz: float = 110.0, seed: int = 0) -> np.ndarray:
    """Eight partials and a little noise."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.2 / k * np.sin(2 * np.pi * root_hz * k * t + seed) for k in range(1, 9))
    return y + 0.2 * 10 ** (texture_db / 20) * np.random.default_rng(seed).standard_normal(len(y))


def chord(duration_s: float = 6.0) -> np.ndarray:
    """Three steady notes of six partials each, and noise 70 dB below."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(0.1 / k * np.sin(2 * np.pi * hz * k * t) for hz in (220, 277.18, 329.63) for k in range(1, 7))
    return y + 1e-4 * np.random.default_rng(1).standard_normal(len(y))


def click() -> np.ndarray:
    """One sample."""
    return np.array([0.7])


def drum(seed: int = 0) -> np.ndarray:
    """A click and decaying noise."""
    n = round(0.15 * SR)
    y = 0.25 * np.exp(-np.arange(n) / (0.03 * SR)) * np.random.default_rng(seed).standard_normal(n).clip(-2, 2)
    y[0] = 0.7
    return y


def gated_tone() -> np.ndarray:
    """Half a second of a drone that starts in the middle of a wave."""
    return 2 * drone(0.5, seed=2)


SILENCE = np.zeros(2 * SR)
STARTS = {
    "click in silence": (click, SILENCE),
    "click over a drone": (click, drone()),
    "click over noise": (click, 0.003 * np.random.default_rng(3).standard_normal(2 * SR)),
    "drum after silence": (drum, SILENCE),
    "drum over a drone": (drum, drone()),
    "drum over noise": (drum, 0.003 * np.random.default_rng(3).standard_normal(2 * SR)),
    "gated tone in silence": (gated_tone, SILENCE),
}


def levels_before_start(name: str, n_channels: int, processor: GrainProcessor) -> list[float]:
    """For each position the level of the largest sample that is added before a start, in dB below its peak."""
    start, background = STARTS[name]
    at, event = round(START_S * SR), start()
    others = [drone(root_hz=90 * 1.3**i, texture_db=-40, seed=10 + i) for i in range(n_channels - 1)]
    alone = np.stack([*others, background], axis=1)
    y = alone.copy()
    y[at : at + len(event), -1] += event
    solver = processor.solver(sound_from_array(y, SR))
    has_background = background.any()
    solver_alone = processor.solver(sound_from_array(alone, SR)) if has_background else None
    if solver_alone:  # the balance of the channels is constant, and is not what is measured here
        solver_alone.field.channel_factors = solver.field.channel_factors
    window, levels = slice(at - round(BEFORE_S * SR), at - round(CLEAR_S * SR)), []
    for octaves in POSITIONS:
        amounts = solver.reach(octaves).amounts_at(solver.solve(octaves))
        added = rendered(solver.field, amounts)[window, -1]
        if solver_alone:
            added = added - rendered(solver_alone.field, amounts)[window, -1]
        levels.append(20 * np.log10(np.abs(added).max() / np.abs(event).max() + 1e-6))
    return levels


def flutter(y: np.ndarray, processor: GrainProcessor, octaves: float) -> str:
    """Standard deviations of the bands' gains, the octaves achieved, and the amounts."""
    solver = processor.solver(sound_from_array(y, SR))
    rendering = move_grain(solver, octaves)
    gains = solver.field.gains(rendering.amounts)
    tones_db = np.zeros_like(gains.bands.noise_db) + gains.level_db
    if gains.bands.expander_db is not None:
        tones_db += gains.bands.expander_db
    edge = tones_db.shape[1] // 8
    deviations = [gain_db[:, edge:-edge].std(axis=1) for gain_db in (tones_db, tones_db + gains.bands.noise_db)]
    figures = "   ".join(f"{db.mean():5.2f}  {db.max():5.2f}" for db in deviations)
    amounts = rendering.amounts
    return f"{figures}   ({rendering.achieved_octaves:+.2f}: {amounts.texture_db:+.1f} dB, {amounts.expander:.2f})"


def window_levels_db(y: np.ndarray) -> np.ndarray:
    """Level of each window and channel of samples (n, channels): (windows, channels)."""
    whole = y[: len(y) // LEVEL_WINDOW * LEVEL_WINDOW].reshape(-1, LEVEL_WINDOW, y.shape[1])
    return 10 * np.log10(np.square(whole, dtype=float).mean(axis=1) + 1e-20)


def pumping(processor: GrainProcessor) -> list[tuple[float, float]]:
    """For each position the range of a pad's level, and the change of the level between it and drums beside it."""
    beats = np.zeros(6 * SR)
    for i in range(12):
        beats[i * SR // 2 : i * SR // 2 + len(drum())] += drum(i)
    y = np.stack([drone(6.0), beats], axis=1)
    solver, before_db = processor.solver(sound_from_array(y, SR)), window_levels_db(y)
    results, inside = [], slice(2, -2)
    for octaves in POSITIONS:
        z = samples_of(move_grain(solver, octaves).sound)
        change_db = window_levels_db(z) - before_db
        overall = [10 * np.log10(np.mean(np.square(x, dtype=float), axis=0)) for x in (y, z)]
        balance_db = float((overall[1] - overall[0]) @ (1, -1))
        results.append((float(np.ptp(change_db[inside, 0])), balance_db))
    return results


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


def measure_file(path: Path, processor: GrainProcessor, figures: LibraryFigures) -> None:
    """Render one file and add its figures."""
    sound = open_sound(path)
    solver, y = processor.solver(sound), samples_of(sound)
    near = [samples_of(move_grain(solver, octaves).sound) for octaves in NEAR_ZERO_OCTAVES]
    figures.near_zero_db[path.name] = max(rms_db(z - y) for z in near) - rms_db(y)
    for octaves in LIBRARY_POSITIONS:
        z, name = samples_of(move_grain(solver, octaves).sound), f"{path.name} at {octaves:+g}"
        if sound.channels > 1:
            for resolution, change_db in image_change_db(y, z, sound.sr, processor.settings).items():
                figures.image_db.setdefault(resolution, []).append(change_db)
        if rms_db(y.mean(axis=0)) < rms_db(z) - 60:
            figures.dc_db[name] = rms_db(z.mean(axis=0)) - rms_db(z)
        figures.ends_db[name] = 20 * np.log10(np.abs(z - y)[[0, -1]].max() / np.abs(y).max() + 1e-9)


def print_library(folder: Path, processor: GrainProcessor) -> None:
    """Print medians and worst cases of the files of a folder."""
    figures = LibraryFigures()
    for path in find_audio([folder]):
        measure_file(path, processor, figures)
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


def print_synthetic(processor: GrainProcessor, channel_counts: list[int]) -> None:
    """Print the figures of synthesised sounds."""
    print("added before a start, dB relative to it:" + " " * 8 + "".join(f"{octaves:+8.0f}" for octaves in POSITIONS))
    for name in STARTS:
        for n_channels in channel_counts:
            title = f"{name}, one of {n_channels} channels" if n_channels > 1 else name
            levels = levels_before_start(name, n_channels, processor)
            print(f"  {title:46s}" + "".join(f"{db:8.1f}" for db in levels), flush=True)
    print("standard deviation over time of the bands' gains, dB: mean, largest, of tones and of noise (achieved)")
    noise = 0.1 * np.random.default_rng(2).standard_normal(6 * SR)
    sounds = {"white noise": noise, "chord": chord(), "drone": drone(6.0)}
    for name, octaves in (("white noise", 3.0), ("white noise", 1.0), ("chord", -3.0), ("chord", -1.0), ("drone", 3.0)):
        print(f"  {f'{name} at {octaves:+g}':20s} {flutter(sounds[name], processor, octaves)}", flush=True)
    print("a pad beside drums: range of its level, and change of the balance, dB")
    for octaves, (range_db, balance_db) in zip(POSITIONS, pumping(processor), strict=True):
        print(f"  {octaves:+g}   {range_db:5.2f}   {balance_db:+6.2f}")


def print_image(processor: GrainProcessor) -> None:
    """Print the change of the level between the channels of a stereo pad."""
    y = np.stack([drone(6.0, -30), 0.6 * drone(6.0, -34, seed=5)], axis=1)
    solver = processor.solver(sound_from_array(y, SR))
    print(
        "a stereo pad with independent noise: change of the level between its channels in each band, dB: largest, 95 %"
    )
    for octaves in POSITIONS:
        z = samples_of(move_grain(solver, octaves).sound)
        change_db = image_change_db(y, z, SR, processor.settings)["of each band, whole file"]
        print(f"  {octaves:+g}   {change_db.max():5.2f}   {np.percentile(change_db, 95):5.2f}", flush=True)


def print_clipping(processor: GrainProcessor) -> None:
    """Print the largest decoded samples of lossy files."""
    y = drone(4.0, -30)
    y *= 0.97 / np.abs(y).max()
    print(
        "largest decoded sample of a loud drone: the input, and the outputs at "
        + ", ".join(f"{p:+g}" for p in POSITIONS)
    )
    with tempfile.TemporaryDirectory() as folder:
        for ending, sr, kind in (
            (".mp3", SR, {}),
            (".ogg", SR, {}),
            (".opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ):
            source, output = Path(folder, "in" + ending), Path(folder, "out" + ending)
            sf.write(source, y, sr, **kind)
            peaks = [np.abs(sf.read(source)[0]).max()]
            for octaves in POSITIONS:
                processor.render_file(source, output, RenderTarget(octaves), overwrite=True)
                peaks.append(np.abs(sf.read(output)[0]).max())
            print(f"  {ending:6s}" + "".join(f"{peak:8.3f}" for peak in peaks), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained model; the built-in pattern without it")
    parser.add_argument("--channels", default="1,2,4,8", help="numbers of channels for starts, separated by commas")
    parser.add_argument("--library", type=Path, help="measure only the files of this folder")
    args = parser.parse_args()
    processor = GrainProcessor.load(args.model, "cpu")
    if args.library:
        print_library(args.library, processor)
        return
    print_synthetic(processor, [int(n) for n in args.channels.split(",")])
    print_image(processor)
    print_clipping(processor)


if __name__ == "__main__":
    main()

"""Sounds whose truth is known: does the learned pattern put the texture where it really is?

    python tests/benchmarks/known_truth.py [--families breath,band] [--seeds 0,1,2] [--variants full] [--picture PNG]

A model learns from a library of drones and chords, each with a texture of one family at a random level within 35 dB,
which is 8 octaves of grain and more. Then held-out sounds that exist twice, with less and with more of that texture,
are moved to each other's grain. The result is the log-spectral distance (RMS dB over 128 bands, within 80 dB) to the
sound that really has that much texture. All contenders are rendered to the same measured grain. "oracle" uses the
true change of each band, constant over time, as its pattern: the best that a pattern of 128 bands can do.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from contenders import HAND_MADE, VARIANTS, Contender, contender, train_on, variants_of
from pictures_of_sounds import band_powers_of, log_mel_of

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SR = 44_100
N_SAMPLES = 2048 + 255 * 512  # one tile
SETTINGS = default_settings(GrainSettings())
AUDIBLE_DB = 80.0  # below the loudest band
TEXTURE_DB = (-50, -15)  # range of levels of the texture
ROOM_DB = -75  # level of the room noise that every sound has
PICTURE_ROOM_DB = -60  # of the sounds in the picture, so that what rises out of the room noise is visible
CHORDS = ((0,), (0, 7), (0, 4, 7, 11), (0, 3, 7, 10), (0, 5, 9))
FAMILIES = ("breath", "band", "hiss", "crackle", "harmonic")


class SoundPair(NamedTuple):
    """A sound that exists twice; the one with more texture has more grain by ``octaves``."""

    less: Sound
    more: Sound
    octaves: float


def tone(rng: np.random.Generator) -> np.ndarray:
    """A drone or chord whose partials end somewhere between 2 and 11 kHz; peak 1."""
    t = np.arange(N_SAMPLES) / SR
    y = np.zeros(N_SAMPLES)
    root = 55 * 2 ** (rng.integers(0, 25) / 12)
    decay, top = rng.uniform(0.6, 1.6), 2000 * 2 ** rng.uniform(0, 2.5)
    for step in CHORDS[rng.integers(len(CHORDS))]:
        hz = root * 2 ** (step / 12)
        for k in range(1, int(top / hz) + 1):
            swell = 1 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.1, 1) * t + rng.random()))
            y += k**-decay * swell * np.sin(2 * np.pi * (hz * k * t + rng.random()))
    return y / np.abs(y).max()


def band_pass(y: np.ndarray, low_hz: float, high_hz: float, order: int = 8) -> np.ndarray:
    """Zero-phase band-pass whose power falls by ``order`` halvings an octave on either side."""
    hz = np.fft.rfftfreq(len(y), 1 / SR) + 1e-9
    response = 1 / np.sqrt(1 + (low_hz / hz) ** order) / np.sqrt(1 + (hz / high_hz) ** order)
    return np.fft.irfft(np.fft.rfft(y) * response, len(y))


def texture(family: str, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The texture of a family; RMS 1."""
    noise = rng.standard_normal(N_SAMPLES)
    if family == "breath":
        noise = band_pass(noise, 3000, 20_000)
    elif family == "band":
        noise = band_pass(noise, 1000, 8000)
    elif family == "crackle":
        noise = band_pass(noise * (rng.random(N_SAMPLES) < 80 / SR) * rng.exponential(1, N_SAMPLES), 1000, 8000, 4)
    elif family == "harmonic":
        noise = y * band_pass(noise, 5, 300, 4)
    return noise / noise.std()


def mixtures(
    family: str, levels_db: Sequence[float], rng: np.random.Generator, room_db: float = ROOM_DB
) -> list[Sound]:
    """The same tone, texture and room noise with the texture at several levels."""
    y = tone(rng)
    z = texture(family, y, rng)
    room = 10 ** (room_db / 20) * y.std() * rng.standard_normal(N_SAMPLES)
    sounds = [y + 10 ** (level / 20) * z + room for level in levels_db]
    return [sound_from_array(0.5 * sound / np.abs(sound).max(), SR) for sound in sounds]


def picture_of(sound: Sound, range_db: float = SETTINGS.dynamic_range_db) -> np.ndarray:
    """The picture of a sound, (n_mels, frames): 1 in its loudest band, 0 from ``range_db`` below it."""
    return log_mel_of(sound, replace(SETTINGS, dynamic_range_db=range_db))


def library(
    family: str, n: int, seed: int, levels_db: tuple[float, float] = TEXTURE_DB, room_db: float = ROOM_DB
) -> list[np.ndarray]:
    """Tiles of unpaired sounds."""
    rng = np.random.default_rng([seed, 1])
    return [picture_of(mixtures(family, [rng.uniform(*levels_db)], rng, room_db)[0]) for _ in range(n)]


def sound_pairs(family: str, n: int, seed: int) -> list[SoundPair]:
    """Sounds that exist twice, 1 to 3 octaves apart."""
    rng, found = np.random.default_rng([seed, 2]), []
    while len(found) < n:
        less, more = mixtures(family, sorted(rng.uniform(*TEXTURE_DB, 2)), rng)
        octaves = math.log2(measure_grain(more) / measure_grain(less))
        if 1 <= octaves <= 3:
            found.append(SoundPair(less, more, octaves))
    return found


def log_spectral_distance(a: Sound, b: Sound) -> float:
    """RMS dB over bands and frames, each sound relative to its own loudest band, within 80 dB."""
    audible = [picture_of(sound, AUDIBLE_DB) for sound in (a, b)]
    return AUDIBLE_DB * math.sqrt(np.mean(np.square(audible[0] - audible[1])))


def oracle(source: Sound, target: Sound, octaves: float) -> np.ndarray:
    """The true change of each band, averaged over time, in dB for one octave: (n_mels, 1)."""
    powers = [np.maximum(band_powers_of(sound, SETTINGS), 1e-20) for sound in (source, target)]
    levels = [10 * np.log10(power).mean(0) for power in powers]
    return ((levels[1] - levels[0]) / octaves)[:, None].astype(np.float32)


def render(analysis: Analysis, pattern_db: np.ndarray, octaves: float) -> Rendering:
    """A sound moved along a pattern."""
    return move_grain(AmountSolver(GainField(analysis, pattern_db)), octaves)


def judge(pairs: list[SoundPair], contenders: dict[str, Contender]) -> dict[str, np.ndarray]:
    """Mean distance to the truth of each contender, and of the unchanged sound: (texture, smooth)."""
    scores: dict[str, list] = {}
    for less, more, octaves in pairs:
        for direction, (source, target, claim) in enumerate(((less, more, -octaves), (more, less, octaves))):
            analysis = analyse(source, SETTINGS)
            patterns = {name: pattern(analysis.x) for name, pattern in contenders.items()}
            if "expander" in contenders:
                patterns["oracle"] = oracle(source, target, claim)
            sounds = {name: render(analysis, pattern_db, claim).sound for name, pattern_db in patterns.items()}
            for name, sound in {**sounds, "nothing": source}.items():
                scores.setdefault(name, [[], []])[direction].append(log_spectral_distance(sound, target))
    return {name: np.mean(values, axis=1) for name, values in scores.items()}


def draw(path: str, seed: int, epochs: int, n_files: int) -> None:
    """One smooth sound raised by two octaves, by models of three families whose libraries contain sounds as smooth."""
    import matplotlib.pyplot as plt

    t = np.arange(N_SAMPLES) / SR
    y = sum(np.sin(2 * np.pi * 440 * k * t) / k**2 for k in range(1, 4))  # few partials, which hide little
    room = 10 ** (PICTURE_ROOM_DB / 20) * y.std() * np.random.default_rng([seed, 3]).standard_normal(N_SAMPLES)
    original = sound_from_array(0.5 * (y + room) / np.abs(y).max(), SR)
    analysis = analyse(original, SETTINGS)
    panels = [("the sound itself", original)]
    for family in ("breath", "band", "hiss"):
        tiles = library(family, n_files, seed, (PICTURE_ROOM_DB - 25, TEXTURE_DB[1]), PICTURE_ROOM_DB)
        model = train_on(tiles, SETTINGS, "full", seed, epochs)
        moved = render(analysis, contender(model, SETTINGS)(analysis.x), -2.0)
        title = f"two octaves more, learned from {family} ({moved.achieved_octaves:+.2f})"
        panels.append((title, moved.sound))
    figure, axes = plt.subplots(2, 4, figsize=(18, 8), layout="constrained", sharey="row")
    for (above, below), (title, sound) in zip(axes.T, panels, strict=True):
        above.imshow(picture_of(sound), "magma", aspect="auto", origin="lower", vmin=0, vmax=1)
        above.set(title=title, xlabel="frame")
        for curve, colour in ((original, "0.6"), (sound, "tab:red")):
            below.plot(SETTINGS.dynamic_range_db * (picture_of(curve).mean(axis=1) - 1), colour)
        below.set(xlabel="mel band", ylim=(-100, 0))
    axes[0, 0].set_ylabel("mel band")
    axes[1, 0].set_ylabel("level (dB), grey: the sound itself")
    figure.savefig(path, dpi=80)


def print_rows(family: str, seed: int, variants: list[str], args: argparse.Namespace) -> None:
    """The rows of the table for one family and seed."""
    tiles, pairs = library(family, args.files, seed), sound_pairs(family, args.pairs, seed)
    scores = judge(pairs, HAND_MADE)
    best = np.min([scores[name] for name in (*HAND_MADE, "nothing")], axis=0)
    row = "  ".join(f"{name} {texture_db:.2f}/{smooth_db:.2f}" for name, (texture_db, smooth_db) in scores.items())
    print(f"{family:9s} {seed}  {row}", flush=True)
    for variant in variants:
        started = time.monotonic()
        model = train_on(tiles, SETTINGS, variant, seed, args.epochs)
        trained_s = time.monotonic() - started
        score = judge(pairs, {variant: contender(model, SETTINGS)})[variant]
        ratio = score / best
        print(
            f"{family:9s} {seed}  {variant:44s} {score[0]:.2f}/{score[1]:.2f}   ratio {ratio[0]:.2f}/{ratio[1]:.2f}   {trained_s:.0f} s",
            flush=True,
        )


def main() -> None:
    """Print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="full", help=f"of: {'; '.join(VARIANTS)} (or all)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--files", type=int, default=160)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--picture", metavar="PNG")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.picture:
        draw(args.picture, seeds[0], args.epochs, args.files)
        return
    print("log-spectral distance to the truth in dB, texture / smooth; ratio to the best hand-made contender")
    for family in args.families.split(","):
        for seed in seeds:
            print_rows(family, seed, variants_of(args.variants), args)


if __name__ == "__main__":
    main()

"""Sounds whose truth is known: does the learned pattern put the texture where it really is?

    python tests/benchmarks/known_truth.py [--families breath,band] [--seeds 0,1,2] [--variants full] [--picture PNG]

A library of drones and chords, each with a texture of one family at a random level over 35 dB
(8 octaves of grain and more), is learned from. Then held-out sounds that exist twice, with less
and with more of that texture, are moved to each other's grain, and the log-spectral distance
(RMS dB over 128 bands, 80 dB range) to the sound that is really so is measured. Every contender
is rendered to the same measured grain. "oracle" has the true change of each band, constant over
time, as its pattern: what a pattern of 128 bands can do at best.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from contenders import HAND_MADE, VARIANTS, contender, train_on

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.mel import band_powers_of, log_mel_of
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SR = 44_100
N_SAMPLES = 2048 + 255 * 512  # one tile
SETTINGS = default_settings(GrainSettings())
HEARD_DB = 80.0  # below the loudest band
LEVELS_DB = (-50, -15)
ROOM_DB = -75
LOUD_ROOM_DB = -60  # of the picture: what rises out of it is seen
CHORDS = ((0,), (0, 7), (0, 4, 7, 11), (0, 3, 7, 10), (0, 5, 9))
FAMILIES = ("breath", "band", "hiss", "crackle", "harmonic")


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


def filtered(y: np.ndarray, low_hz: float, high_hz: float, order: int = 8) -> np.ndarray:
    """Band-pass with power slopes of so many halvings an octave."""
    hz = np.fft.rfftfreq(len(y), 1 / SR) + 1e-9
    response = 1 / np.sqrt(1 + (low_hz / hz) ** order) / np.sqrt(1 + (hz / high_hz) ** order)
    return np.fft.irfft(np.fft.rfft(y) * response, len(y))


def texture(family: str, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The texture of a family; RMS 1."""
    noise = rng.standard_normal(N_SAMPLES)
    if family == "breath":
        noise = filtered(noise, 3000, 20_000)
    elif family == "band":
        noise = filtered(noise, 1000, 8000)
    elif family == "crackle":
        noise = filtered(noise * (rng.random(N_SAMPLES) < 80 / SR) * rng.exponential(1, N_SAMPLES), 1000, 8000, 4)
    elif family == "harmonic":
        noise = y * filtered(noise, 5, 300, 4)
    return noise / noise.std()


def mixtures(family: str, levels_db: list[float], rng: np.random.Generator, room_db: float = ROOM_DB) -> list[Sound]:
    """The same tone, texture and room noise with the texture at some levels."""
    y = tone(rng)
    z = texture(family, y, rng)
    room = 10 ** (room_db / 20) * y.std() * rng.standard_normal(N_SAMPLES)
    sounds = [y + 10 ** (level / 20) * z + room for level in levels_db]
    return [sound_from_array(0.5 * sound / np.abs(sound).max(), SR) for sound in sounds]


def library(
    family: str, n: int, seed: int, levels_db: tuple[float, float] = LEVELS_DB, room_db: float = ROOM_DB
) -> list[np.ndarray]:
    """Tiles of unpaired sounds."""
    rng = np.random.default_rng([seed, 1])
    return [log_mel_of(mixtures(family, [rng.uniform(*levels_db)], rng, room_db)[0], SETTINGS) for _ in range(n)]


def pairs(family: str, n: int, seed: int) -> list[tuple[Sound, Sound, float]]:
    """Sounds that exist twice, with less and with more texture, 1 to 3 octaves apart."""
    rng, found = np.random.default_rng([seed, 2]), []
    while len(found) < n:
        less, more = mixtures(family, sorted(rng.uniform(*LEVELS_DB, 2)), rng)
        octaves = math.log2(measure_grain(more) / measure_grain(less))
        if 1 <= octaves <= 3:
            found.append((less, more, octaves))
    return found


def log_spectral_distance(a: Sound, b: Sound) -> float:
    """RMS dB over bands and frames, each sound under its own loudest band, 80 dB range."""
    heard = [log_mel_of(sound, replace(SETTINGS, dynamic_range_db=HEARD_DB)) for sound in (a, b)]
    return HEARD_DB * math.sqrt(np.mean(np.square(heard[0] - heard[1])))


def oracle(source: Sound, target: Sound, octaves: float) -> np.ndarray:
    """The true change of each band, mean over time, dB for one octave."""
    levels = [10 * np.log10(np.maximum(band_powers_of(s, SETTINGS), 1e-20)).mean(0) for s in (source, target)]
    return ((levels[1] - levels[0]) / octaves)[:, None].astype(np.float32)


def judge(found: list[tuple[Sound, Sound, float]], contenders: dict[str, Callable]) -> dict[str, np.ndarray]:
    """Mean distance to the truth of each contender, (texture, smooth)."""
    scores: dict[str, list] = {}
    for less, more, octaves in found:
        for direction, (source, target, claim) in enumerate(((less, more, -octaves), (more, less, octaves))):
            analysis = analyse(source, SETTINGS)
            patterns = {name: pattern(analysis.x) for name, pattern in contenders.items()}
            if "expander" in contenders:
                patterns["oracle"] = oracle(source, target, claim)
            for name, pattern_db in patterns.items():
                moved = move_grain(AmountSolver(analysis, pattern_db), claim).sound
                scores.setdefault(name, [[], []])[direction].append(log_spectral_distance(moved, target))
            scores.setdefault("nothing", [[], []])[direction].append(log_spectral_distance(source, target))
    return {name: np.mean(values, axis=1) for name, values in scores.items()}


def draw(path: str, seed: int, epochs: int, n_files: int) -> None:
    """One smooth sound raised by two octaves by models of three families, whose libraries hold sounds as smooth."""
    import matplotlib.pyplot as plt

    t = np.arange(N_SAMPLES) / SR
    y = sum(np.sin(2 * np.pi * 440 * k * t) / k**2 for k in range(1, 4))  # few partials, which hide little
    room = 10 ** (LOUD_ROOM_DB / 20) * y.std() * np.random.default_rng([seed, 3]).standard_normal(N_SAMPLES)
    sound = sound_from_array(0.5 * (y + room) / np.abs(y).max(), SR)
    analysis = analyse(sound, SETTINGS)
    panels = [("the sound itself", sound)]
    for family in ("breath", "band", "hiss"):
        tiles = library(family, n_files, seed, (LOUD_ROOM_DB - 25, LEVELS_DB[1]), LOUD_ROOM_DB)
        model = train_on(tiles, SETTINGS, "full", seed, epochs)
        moved = move_grain(AmountSolver(analysis, contender(model, SETTINGS)(analysis.x)), -2.0)
        panels.append((f"two octaves more, learned from {family} ({moved.got_octaves:+.2f})", moved.sound))
    figure, axes = plt.subplots(2, 4, figsize=(18, 8), layout="constrained", sharey="row")
    for (above, below), (title, shown) in zip(axes.T, panels, strict=True):
        above.imshow(log_mel_of(shown, SETTINGS), "magma", aspect="auto", origin="lower", vmin=0, vmax=1)
        above.set(title=title, xlabel="frame")
        for one, colour in ((sound, "0.6"), (shown, "tab:red")):
            below.plot(SETTINGS.dynamic_range_db * (log_mel_of(one, SETTINGS).mean(axis=1) - 1), colour)
        below.set(xlabel="mel band", ylim=(-100, 0))
    axes[0, 0].set_ylabel("mel band")
    axes[1, 0].set_ylabel("level (dB), grey: the sound itself")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="full", help=f"of: {'; '.join(VARIANTS)} (or all)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--files", type=int, default=160)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--picture", metavar="PNG")
    args = parser.parse_args()
    if args.picture:
        draw(args.picture, int(args.seeds.split(",")[0]), args.epochs, args.files)
        return
    variants = list(VARIANTS) if args.variants == "all" else args.variants.split(";")
    print("log-spectral distance to the truth in dB, texture / smooth; ratio to the best hand-made contender")
    for family in args.families.split(","):
        for seed in map(int, args.seeds.split(",")):
            tiles, found = library(family, args.files, seed), pairs(family, args.pairs, seed)
            hand = judge(found, HAND_MADE)
            best = np.min([hand[name] for name in (*HAND_MADE, "nothing")], axis=0)
            print(
                f"{family:9s} {seed}  " + "  ".join(f"{k} {v[0]:.2f}/{v[1]:.2f}" for k, v in hand.items()), flush=True
            )
            for variant in variants:
                started = time.monotonic()
                model = train_on(tiles, SETTINGS, variant, seed, args.epochs)
                trained_s = time.monotonic() - started
                got = judge(found, {variant: contender(model, SETTINGS)})[variant]
                ratio = got / best
                print(
                    f"{family:9s} {seed}  {variant:34s} {got[0]:.2f}/{got[1]:.2f}   ratio {ratio[0]:.2f}/{ratio[1]:.2f}   {trained_s:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()

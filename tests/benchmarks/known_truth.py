"""Sounds whose truth is known: does the slider make the sound that really has that much more or less of its texture?

    python tests/benchmarks/known_truth.py [--families breath,band] [--seeds 0,1,2] [--variants full]
    python tests/benchmarks/known_truth.py --real ../shared/library [--families vinyl_hiss]

A model learns from a library of sounds, each with a texture of one family at a random level. Then held-out sounds that
exist twice, with less and with more of that texture, are moved to each other's grain. The result is the log-spectral
distance (RMS dB within 80 dB) to the sound that really has that much texture, over 128 mel bands and over the bins of
windows of 4096 samples. All contenders are rendered to the same measured grain.

Families are synthesised (drones and chords with breath, a band of noise, hiss, crackle, or noise around the partials), or
with --real mixed from recordings: tones of guitars, bass, choir, glass, piano and chime with a noise. Pairs are made of
other recordings than the library, or of another half of the recording where a noise was recorded once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
from contenders import (
    HAND_MADE,
    VARIANTS,
    Contender,
    contender,
    moved_by_hand,
    one_gain,
    tiles_of,
    train_on,
    typical_texture_of,
    variants_of,
)
from pictures_of_sounds import log_mel_of

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SR = 44_100
N_SAMPLES = 2048 + 255 * 512  # one tile
SETTINGS = default_settings(GrainSettings())
AUDIBLE_DB = 80.0  # below the loudest band
TEXTURE_DB = (-50, -15)  # range of levels of the texture
ROOM_DB = -75  # level of the room noise that every sound has
CHORDS = ((0,), (0, 7), (0, 4, 7, 11), (0, 3, 7, 10), (0, 5, 9))
FAMILIES = ("breath", "band", "hiss", "crackle", "harmonic")
REAL_DB = (-40, -5)  # range of levels of a recorded noise, relative to the tones
TONES = (
    "guit_e_fifths", "guit_e_slide", "guit_harmonics", "bass_drop_c", "bass_hard_c", "bass_thick_c", "bass_trance_c",
    "bass_woodsy_c", "ambi_choir", "ambi_glass_hum", "elec_chime", "perc_bell",
)  # fmt: skip
HELD_OUT_TONES = ["guit_em9", "bass_voxy_c", "ambi_glass_rub", "ambi_piano", "perc_bell2"]
NOISES = {  # family: the recordings of the library and of the pairs; a single one is divided into halves
    "vinyl_hiss": ("vinyl_hiss",),
    "sauna": ("ambi_sauna",),
    "printer": ("loop_3d_printer",),
    "drum_roll": ("drum_roll",),
    "splash": ("drum_splash_hard", "drum_splash_soft"),
}
N_STEPS = 64  # of a tile


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
    family: str, levels_db: Sequence[float], rng: np.random.Generator, is_held_out: bool, recordings: Recordings | None
) -> list[Sound]:
    """The same tone and texture, with the texture at several levels."""
    if recordings is None:
        y = tone(rng)
        z = texture(family, y, rng)
        room = 10 ** (ROOM_DB / 20) * y.std() * rng.standard_normal(N_SAMPLES)
    else:
        y, z, room = recordings.tone(rng, is_held_out), recordings.noise(family, rng, is_held_out), 0.0
        y, z = y / y.std(), z / z.std()
    sounds = [y + 10 ** (level / 20) * z + room for level in levels_db]
    return [sound_from_array(0.5 * sound / np.abs(sound).max(), SR) for sound in sounds]


class Recordings:
    """Pieces of recordings below a folder, of one channel at 44.1 kHz, long enough for a tile."""

    def __init__(self, folder: Path):
        self._paths = {path.stem: path for path in folder.rglob("*.*")}
        self._samples: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """A recording, which must have the rate of this benchmark or a multiple of a common one."""
        if name not in self._samples:
            from scipy.signal import resample_poly

            y, sr = sf.read(self._paths[name], always_2d=True)
            common = math.gcd(sr, SR)
            self._samples[name] = resample_poly(y.mean(axis=1), SR // common, sr // common)
        return self._samples[name]

    def tone(self, rng: np.random.Generator, is_held_out: bool) -> np.ndarray:
        """A tone, looped, and played faster or slower by up to a quarter."""
        names = HELD_OUT_TONES if is_held_out else TONES
        y, rate = self.read(names[rng.integers(len(names))]), 2 ** rng.uniform(-0.4, 0.4)
        piece = _looped(y, int(N_SAMPLES * rate) + 2, rng)
        return np.interp(np.arange(N_SAMPLES) * rate, np.arange(len(piece)), piece)

    def noise(self, family: str, rng: np.random.Generator, is_held_out: bool) -> np.ndarray:
        """A noise, looped."""
        names = NOISES[family]
        y = self.read(names[-1 if is_held_out else 0])
        if len(names) == 1:
            y = y[len(y) // 2 :] if is_held_out else y[: len(y) // 2]
        return _looped(y, N_SAMPLES, rng)


def _looped(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    start = rng.integers(len(y)) if len(y) > n else 0
    return y[(start + np.arange(n)) % len(y)]


def picture_of(sound: Sound, range_db: float = SETTINGS.dynamic_range_db) -> np.ndarray:
    """The picture of a sound, (n_mels, frames): 1 in its loudest band, 0 from ``range_db`` below it."""
    return log_mel_of(sound, replace(SETTINGS, dynamic_range_db=range_db))


def library(family: str, n: int, seed: int, recordings: Recordings | None) -> list[Analysis]:
    """Unpaired sounds."""
    rng, levels_db = np.random.default_rng([seed, 1]), TEXTURE_DB if recordings is None else REAL_DB
    sounds = (mixtures(family, [rng.uniform(*levels_db)], rng, False, recordings)[0] for _ in range(n))
    return [analyse(sound, SETTINGS) for sound in sounds]


def sound_pairs(family: str, n: int, seed: int, recordings: Recordings | None) -> list[SoundPair]:
    """Sounds that exist twice, 1 to 3 octaves apart."""
    rng, found, levels_db = np.random.default_rng([seed, 2]), [], TEXTURE_DB if recordings is None else REAL_DB
    while len(found) < n:
        less, more = mixtures(family, sorted(rng.uniform(*levels_db, 2)), rng, True, recordings)
        octaves = math.log2(measure_grain(more) / measure_grain(less))
        if 1 <= octaves <= 3:
            found.append(SoundPair(less, more, octaves))
    return found


def distances(a: Sound, b: Sound) -> tuple[float, float]:
    """RMS dB over bands and over fine bins, each sound relative to its own loudest one, within 80 dB."""
    bands, bins = (
        [levels(sound) for sound in (a, b)] for levels in (lambda sound: picture_of(sound, AUDIBLE_DB), fine_bins)
    )
    return tuple(AUDIBLE_DB * math.sqrt(np.mean(np.square(x - y))) for x, y in (bands, bins))


def fine_bins(sound: Sound) -> np.ndarray:
    """The bins of windows of 4096 samples, from 50 Hz to 15 kHz, on the scale of `picture_of`."""
    y = np.concatenate(list(sound.blocks()))[:, 0]
    windows = np.lib.stride_tricks.sliding_window_view(y, 4096)[::1024] * np.hanning(4097)[:-1]
    hz = np.fft.rfftfreq(4096, 1 / SR)
    power = np.square(np.abs(np.fft.rfft(windows)))[:, (hz >= 50) & (hz <= 15_000)]
    return np.clip(1 + 10 * np.log10(np.maximum(power / power.max(), 1e-30)) / AUDIBLE_DB, 0, 1)


Judged = Callable[[Analysis, float], Sound]
"""Moves a sound by some octaves."""


def by_layers(texture: Contender) -> Judged:
    """Moves the texture, as the product does."""
    return lambda analysis, octaves: move_grain(AmountSolver(GainField(analysis, texture(analysis))), octaves).sound


def judge(pairs: list[SoundPair], contenders: dict[str, Judged]) -> dict[str, np.ndarray]:
    """Mean distances to the truth: arrays of (texture, smooth) by (bands, bins)."""
    scores: dict[str, list] = {}
    for less, more, octaves in pairs:
        for direction, (source, target, claim) in enumerate(((less, more, -octaves), (more, less, octaves))):
            analysis = analyse(source, SETTINGS)
            for name, move in contenders.items():
                scores.setdefault(name, [[], []])[direction].append(distances(move(analysis, claim), target))
    return {name: np.mean(values, axis=1) for name, values in scores.items()}


def print_family(family: str, seed: int, args: argparse.Namespace, recordings: Recordings | None) -> np.ndarray:
    """Print the rows of one family and seed; returns the ratios of the first variant to the best by hand, (2, 2, 2).

    The first axis is the first variant and one gain, then (texture, smooth), then (bands, bins).
    """
    pairs = sound_pairs(family, args.pairs, seed, recordings)
    by_hand = {
        name: lambda analysis, octaves, f=f: moved_by_hand(analysis, f(analysis), octaves)
        for name, f in HAND_MADE.items()
    }
    scores = judge(pairs, {**by_hand, "nothing": lambda analysis, _: analysis.sound, "one gain": by_layers(one_gain)})
    best = np.min([scores[name] for name in (*HAND_MADE, "nothing")], axis=0)
    analyses = library(family, args.files, seed, recordings) if args.variants != "none" else []
    tiles = tiles_of(analyses, N_STEPS) if analyses else None
    for variant in variants_of(args.variants):
        started = time.monotonic()
        model = train_on(tiles, typical_texture_of(analyses, tiles), SETTINGS, variant, seed, args.epochs)
        trained_s = time.monotonic() - started
        scores |= judge(pairs, {f"{variant} ({trained_s:.0f} s)": by_layers(contender(model))})
    for name, score in scores.items():
        cells = "  ".join(f"{d:5.2f} {r:5.2f}" for d, r in zip(score.T.ravel(), (score / best).T.ravel(), strict=True))
        print(f"{family:10s} {seed}  {name:32s} {cells}", flush=True)
    first = ([name for name in scores if name.split(" (")[0] in VARIANTS] or ["one gain"])[0]
    return np.stack([scores[first] / best, scores["one gain"] / best])


def main() -> None:
    """Print the table and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="full", help=f"of: {'; '.join(VARIANTS)} (or all, or none)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--files", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="mix recordings of this library")
    args = parser.parse_args()
    recordings = None if args.real is None else Recordings(args.real)
    families = args.families.split(",") if args.families else FAMILIES if recordings is None else list(NOISES)
    print(f"{'':12s} {'distance (dB), ratio to the best by hand:':32s} bands: texture, smooth   bins: texture, smooth")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    ratios = np.array([print_family(family, seed, args, recordings) for family in families for seed in seeds])
    for i, name in enumerate(("bands", "bins")):
        learned, one = ratios[:, 0, :, i], ratios[:, 1, :, i]
        print(
            f"{name}: learned to by hand, mean {learned.mean():.2f}, largest {learned.max():.2f}; "
            f"one gain, mean {one.mean():.2f}, largest {one.max():.2f}; "
            f"learned to one gain, mean {(learned / one).mean():.2f}, largest {(learned / one).max():.2f}"
        )


if __name__ == "__main__":
    main()

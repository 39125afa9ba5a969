"""Generated texture: does a clean pad get the texture of a library?

    python tests/benchmarks/generated_texture.py [--families breath,hiss,crackle] [--shots FOLDER]

The library of each family is that of known_truth.py, from which a model learns for 40 epochs. A pad without any noise,
which swells and fades, is then moved to -2. What is added is the output minus the input, after the gain that makes this
smallest. It is compared with the texture of the half of the library that has most of it: the difference of the spectra
(RMS dB over those of the 128 bands in which the library's texture lies within 40 dB of its loudest band, after removing
the mean; where the pad is steady, and with its fades), the crest factors of 3 s (of the pad where it is steady), how
the level follows that of the pad (correlation of decibels over windows of half a second), and whether a second
rendering has the same samples. With --shots the spectrograms are drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from contenders import contender, tiles_of, train_on, typical_texture_of
from known_truth import N_STEPS, SETTINGS, SR, library

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.layers import crest_factor_db
from neural_grain.dsp.mel import mel_filterbank
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.solver import AmountSolver
from neural_grain.dsp.stft import mean_power, stft_blocks

OCTAVES = -2.0
EPOCHS = 40
RANGE_DB = 40.0  # of the library's texture in which spectra are compared
WINDOW = SR // 2
EDGE = 4096  # samples
STEADY = slice(SR, 4 * SR)  # of the pad


class LibraryTexture(NamedTuple):
    """The texture of the louder half of a library."""

    spectrum_db: np.ndarray  # (n_mels,)
    crest_db: float


def pad(duration_s: float = 6.0) -> np.ndarray:
    """A chord of sines that swells and fades, in 32-bit floats without any noise."""
    t = np.arange(round(duration_s * SR)) / SR
    y = sum(np.sin(2 * np.pi * hz * k * t + k) / k for hz in (220, 277.18, 329.63) for k in range(1, 7))
    fades = np.minimum(1, t) * np.minimum(1, (duration_s - t) / 1.5)
    return 0.5 * y / np.abs(y).max() * np.sin(np.pi / 2 * fades) ** 2


def band_levels_db(y: np.ndarray) -> np.ndarray:
    """Mean level of samples (n,) in each band, dB."""
    weights = mel_filterbank(SETTINGS, SR).T
    blocks = stft_blocks(sound_from_array(y, SR), SETTINGS.grain, lambda D, _: mean_power(D) @ weights)
    return 10 * np.log10(np.concatenate(list(blocks)).mean(axis=0) + 1e-20)


def texture_of(analyses: list[Analysis]) -> LibraryTexture:
    """The mean spectrum and the median crest factor of the textures that are louder than most."""
    # The ends of these sounds are cut in the middle of waves, which leaves tones in the texture there.
    textures = [a.layers.texture(EDGE, a.sound.n_samples - EDGE)[:, 0] for a in analyses]
    loud = sorted(textures, key=lambda y: -y.std())[: len(textures) // 2]
    powers = [10 ** (band_levels_db(y / y.std()) / 10) for y in loud]
    return LibraryTexture(10 * np.log10(np.mean(powers, axis=0)), float(np.median([crest_factor_db(y) for y in loud])))


def samples_of(sound: Sound) -> np.ndarray:
    """Samples of a mono sound, shape (n,)."""
    return np.concatenate(list(sound.blocks()))[:, 0]


def levels_db(y: np.ndarray) -> np.ndarray:
    """Level of each window."""
    return 10 * np.log10(np.square(y[: len(y) // WINDOW * WINDOW].reshape(-1, WINDOW)).mean(axis=1) + 1e-20)


def measure(family: str, analysis: Analysis, analyses: list[Analysis]) -> Rendering:
    """Render, and print a row."""
    wanted = texture_of(analyses)
    tiles = tiles_of(analyses, N_STEPS)
    model = train_on(tiles, typical_texture_of(analyses, tiles), SETTINGS, "full", 0, EPOCHS)
    field = GainField(analysis, contender(model)(analysis))
    first, second = (move_grain(AmountSolver(field), OCTAVES) for _ in range(2))
    y, z = samples_of(analysis.sound), samples_of(first.sound)
    added = z * (y @ y) / (z @ y) - y
    compared = wanted.spectrum_db > wanted.spectrum_db.max() - RANGE_DB
    differences_db = [(band_levels_db(part) - wanted.spectrum_db)[compared] for part in (added[STEADY], added)]
    steady_db, whole_db = (each.std() for each in differences_db)
    print(
        f"{family:9s} achieved {first.achieved_octaves:+.2f} with {first.amounts.texture_db:.1f} dB, "
        f"expander {first.amounts.expander:.2f}; spectrum {steady_db:.1f} dB RMS (with the fades {whole_db:.1f}) over "
        f"{compared.sum()} bands; crest factor {crest_factor_db(added[STEADY, None]):.1f} dB, "
        f"library {wanted.crest_db:.1f}; follows the pad {np.corrcoef(levels_db(added), levels_db(y))[0, 1]:.2f}; "
        f"twice the same: {np.array_equal(z, samples_of(second.sound))}",
        flush=True,
    )
    return first


def draw(y: np.ndarray, path: Path, title: str) -> None:
    """Draw a spectrogram."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    axes.specgram(y + 1e-12, NFFT=2048, Fs=SR, noverlap=1536, cmap="viridis", vmin=-140, vmax=-40)
    axes.set(title=title, xlabel="s", ylabel="Hz", ylim=(0, 16_000))
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Print the rows, and draw the spectrograms if wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="breath,hiss,crackle")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--shots", type=Path, help="folder for the spectrograms")
    args = parser.parse_args()
    analysis = analyse(sound_from_array(pad(), SR), SETTINGS)
    for family in args.families.split(","):
        rendering = measure(family, analysis, library(family, args.files, 7, None))
        if args.shots:
            draw(samples_of(rendering.sound), args.shots / f"gen_{family}.png", f"a clean pad at -2, library: {family}")


if __name__ == "__main__":
    main()

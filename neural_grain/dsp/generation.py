"""Generated texture: what is added where a sound has no texture that could be raised.

It is white noise with a level in each band and step, sparse where the texture of a library consists of clicks. Its
level follows that of the sound's own texture. Where a band has none, it lies at the floor of the picture with the
spectrum that a model gives, and follows the loudest band of its time.

In: an `Analysis` and a `GeneratedTexture`. Out: a `GeneratedBase`; samples of white noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.base.files import scratch_array
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import db_of, lerp_weights, power_of
from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB, STEP_FRAMES


@dataclass(frozen=True)
class GenerationSettings:
    """Where a sound has texture of its own, and how generated texture follows it."""

    present_db: float = 10.0  # above the floor of the picture, from where on a band has noise that can be raised
    steady_steps: int = 5  # 0.23 s, which noise has to last so that noise is generated after its level
    leak_db: float = 65.0  # below tones: what the split leaves of them in the texture where they change
    lasting_leak_db: float = 95.0  # the same where they do not change
    lasting_steps: int = 21  # 1 s
    leak_bands: int = 2  # to both sides of a tone
    hit_db: tuple[float, float] = (6.0, 12.0)  # above the level of what lasts: from noise that fluctuates to a hit


GENERATION = GenerationSettings()
BASE_STEPS = 4096  # of the level below generated noise that are computed at a time: 3 minutes
NOISE_BLOCK = 1 << 14  # samples of generated noise that have a seed of their own, so that any piece can be generated
MIN_DENSITY = 1e-4  # of generated clicks: 4 in a second


class GeneratedTexture(NamedTuple):
    """What the texture is like that is generated where a sound has none."""

    spectrum_db: np.ndarray  # (n_mels,) or (n_mels, cells), level of each band; only differences between bands count
    crest_db: float  # crest factor of 3 s of its samples: up to 13 dB noise, above it more and more separate clicks


#: White noise, which is generated without a model.
WHITE_NOISE = GeneratedTexture(np.zeros(1, np.float32), 0.0)


class GeneratedBase(NamedTuple):
    """Arrays of shape (n_mels, steps)."""

    present: np.ndarray  # `presence`
    base_db: np.ndarray  # level on which generated noise is built


def presence(tones_db: np.ndarray, texture_db: np.ndarray) -> np.ndarray:
    """How far bands have texture of their own: 0 at the floor of the picture, 1 where it can be raised.

    What the split leaves of strong tones in the texture is none. It is weak, and comes and goes where tones change.

    Parameters
    ----------
    tones_db, texture_db : np.ndarray, shape (n_mels, steps), dB
    """
    from scipy.ndimage import maximum_filter1d

    near_db = maximum_filter1d(tones_db, 2 * GENERATION.leak_bands + 1, axis=0, mode="nearest")
    lasting_db = opening(texture_db, GENERATION.lasting_steps)

    def over(level_db: np.ndarray, floor_db: np.ndarray | float) -> np.ndarray:
        return np.clip((level_db - floor_db) / np.float32(GENERATION.present_db), 0, 1)

    lasts = over(lasting_db, near_db - GENERATION.lasting_leak_db)
    is_strong = over(texture_db, near_db - GENERATION.leak_db)
    return over(texture_db, -np.float32(DYNAMIC_RANGE_DB)) * np.maximum(lasts, is_strong)


def typical_texture(texture_db: np.ndarray, crest_db: np.ndarray, shares: np.ndarray) -> GeneratedTexture:
    """What a library's texture is like: the mean spectrum and the median crest factor of the half with most texture.

    Parameters
    ----------
    texture_db : np.ndarray, shape (tiles, n_mels), mean level of each band, relative to the loudest band of the sound
    crest_db : np.ndarray, shape (tiles,), of the samples of the texture
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    """
    power = power_of(texture_db)
    energy = power @ shares
    has_most = np.argsort(energy)[len(energy) // 2 :]
    shape = power[has_most] / energy[has_most, None]
    return GeneratedTexture(db_of(shape.mean(axis=0)), float(np.median(crest_db[has_most])))


def opening(level_db: np.ndarray, n_steps: int) -> np.ndarray:
    """The largest of the smallest values around in time, shape (n_mels, steps): what lasts for ``n_steps``."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    lowest_db = minimum_filter1d(level_db, n_steps, axis=1, mode="nearest")
    return maximum_filter1d(lowest_db, n_steps, axis=1, mode="nearest")


def steady_level(level_db: np.ndarray) -> np.ndarray:
    """The level of what lasts: where it stands out of its opening over time, as in a hit, the opening takes its place.

    The opening is the largest of the smallest values around. Generated noise follows this level. A hit would else be
    heard in it before and after, because a step also sees what lies half a window around it.

    Parameters
    ----------
    level_db : np.ndarray, shape (n_mels, steps), dB

    Returns
    -------
    np.ndarray of the same shape, float32, nowhere above ``level_db``
    """
    steady_db = opening(level_db, GENERATION.steady_steps)
    excess_db, (start, stop) = level_db - steady_db, GENERATION.hit_db
    # Judged by the mean of the bands, because the noise in a single one fluctuates by as much as a weak hit.
    excess_db *= np.clip((stop - excess_db.mean(axis=0)) / np.float32(stop - start), 0, 1)
    steady_db += excess_db
    return steady_db


def generated_base(analysis: Analysis, spectrum_db: np.ndarray) -> GeneratedBase:
    """Where a sound has texture, and the level on which noise is generated: that of the texture without hits.

    Where a band has no texture, that is the floor of the picture, with the spectrum of the library's texture, and
    follows the loudest band of its time.
    """
    shares, n_cells = band_fractions(analysis.settings), -(-analysis.x.shape[1] // CELL_FRAMES)
    spectrum_db = np.broadcast_to(np.reshape(spectrum_db, (len(spectrum_db), -1)), (len(shares), n_cells))
    spectrum_db = spectrum_db - db_of(shares @ power_of(spectrum_db)) - np.float32(DYNAMIC_RANGE_DB)
    present, base_db = scratch_array(analysis.texture_db.shape), scratch_array(analysis.texture_db.shape)
    margin = GENERATION.lasting_steps
    for start in range(0, base_db.shape[1], BASE_STEPS):
        stop = min(start + BASE_STEPS, base_db.shape[1])
        first = max(0, start - margin)
        texture_db, tones_db = (db[:, first : stop + margin] for db in (analysis.texture_db, analysis.tones_db))
        loudest_db = steady_level(np.maximum(texture_db, tones_db).max(axis=0, keepdims=True))
        share = presence(tones_db, texture_db)
        steps = np.arange(first, first + share.shape[1])
        generated_db = lerp_weights((steps + 0.5) * STEP_FRAMES / CELL_FRAMES, n_cells).interpolate(spectrum_db)
        piece = share * steady_level(texture_db) + (1 - share) * (generated_db + loudest_db)
        inside = slice(start - first, stop - first)
        present[:, start:stop], base_db[:, start:stop] = share[:, inside], piece[:, inside]
    return GeneratedBase(present, base_db)


def sparse_noise(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    """White noise of power 1 of which only some samples differ from 0: from Gaussian noise to rare clicks.

    Parameters
    ----------
    density : float in (0, 1], share of those samples; 1 is Gaussian noise

    Returns
    -------
    np.ndarray, float32
    """
    y = rng.standard_normal(shape, np.float32)
    if density < 1:
        y *= (rng.random(shape, np.float32) < density) / np.float32(np.sqrt(density))
    return y


def density_for_crest(crest_db: float, amplitude: np.ndarray, n_samples: int) -> float:
    """Density of `sparse_noise` that gives it a crest factor after a zero-phase filter.

    Of a click, the filter leaves its impulse response, whose peak has ``k`` times the energy of the whole response. The
    square of the largest of n Gaussian numbers is about 1.7 log(n), so the square of the crest factor is about

        1.7 log(1 + density n_samples) (1 + k (1 / density - 1))

    Parameters
    ----------
    crest_db : float, wanted in ``n_samples``
    amplitude : np.ndarray, shape (bins,), frequency response of the filter
    """
    k = np.square(amplitude.mean()) / np.square(amplitude).mean()
    density = np.geomspace(1, MIN_DENSITY, 200)
    crest = 1.7 * np.log1p(density * n_samples) * (1 + k * (1 / density - 1))
    return float(np.exp(np.interp(crest_db, 10 * np.log10(crest), np.log(density))))


def white_noise(start: int, stop: int, channels: int, density: float) -> np.ndarray:
    """Samples ``start`` up to ``stop`` of an endless `sparse_noise` that is the same in every run.

    Returns
    -------
    np.ndarray, shape (channels, stop - start), float32; the channels are independent
    """
    first, last = start // NOISE_BLOCK, (stop - 1) // NOISE_BLOCK
    # A seed is not negative, but the number of a block is where a window begins before the sound.
    blocks = [
        sparse_noise(np.random.default_rng([channels, block + (1 << 32)]), (channels, NOISE_BLOCK), density)
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks, axis=1)[:, start - first * NOISE_BLOCK : stop - first * NOISE_BLOCK]

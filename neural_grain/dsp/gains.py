"""From amounts to gains: how much every layer and mel band is raised or lowered at every step of 46 ms.

The whole texture gets one gain, texture_db. Noise is raised by no more than ``max_gain_db``, and not at all where there
is none; what is missing is generated, with the spectrum of `GeneratedTexture`.

Where more of the texture does little, as in a sound that consists of it, noise fills the weak bands of each step, which
leaves tones and hits as they are. An equaliser in its place turned up the treble of all that there is.

The spectral expander takes over where neither reaches farther. It works on tones and noise alike: every band is moved
away from the mean level of its time, or towards it for more texture. A gain of all bands of a step, steadied by
`smooth_change`, keeps the energy that the step had before the expander.

The texture itself is moved without such a gain. The tones then keep their levels over time, and a sound with more
texture is what it would be with a louder texture; its level as a whole is set by `Amounts.level`.

In: band levels in dB, shape (n_mels, steps), and `Amounts`. Out: `StepGains`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.settings import NEPER_PER_DB


@dataclass(frozen=True)
class EnergySettings:
    """The bilateral filter over time in `smooth_change`."""

    half_width_steps: int = 12  # 0.56 s to either side: longer than the fluctuation of a noise, shorter than a phrase
    similarity_db: float = 6.0  # a step whose level changes by this much more or less counts 1/e


@dataclass(frozen=True)
class BalanceSettings:
    """How the balance of the channels is kept."""

    balance_db: float = 0.4  # by which the level of a channel may differ from that of all


@dataclass(frozen=True)
class TextureSettings:
    """How amounts become gains of the texture."""

    max_gain_db: float = 20.0  # of noise that is there: what leaks from tones into it would be heard beyond


ENERGY = EnergySettings()
BALANCE = BalanceSettings()
TEXTURE = TextureSettings()


@dataclass(frozen=True)
class Amounts:
    """How much is moved: the texture in dB, positive for more texture, and the spectral expander, positive for smoother.

    ``fill`` is by how much of their distance to the loud bands the weak ones are filled with noise, 0 to 1. ``level``
    is a factor on the samples after the gains.
    """

    texture_db: float
    expander: float
    level: float = 1.0
    fill: float = 0.0

    @property
    def to_texture(self) -> bool:
        """True if these amounts increase grain."""
        return self.texture_db > 0 or self.fill > 0 or self.expander < 0

    def at(self, steps: np.ndarray) -> Amounts:
        """The amounts at some steps: these, because they do not change over time."""
        return self


class StepAmounts(NamedTuple):
    """Amounts at some steps, as in `Amounts`: arrays of shape (steps,)."""

    texture_db: np.ndarray
    expander: np.ndarray
    fill: np.ndarray


@dataclass(frozen=True, eq=False)
class AmountCurve:
    """Amounts that change over time: arrays of shape (steps of the sound,), as in `Amounts`.

    ``level_db`` has the shape (1, steps), or (channels, steps) where it keeps the balance of the channels.
    """

    texture_db: np.ndarray
    expander: np.ndarray
    fill: np.ndarray
    level_db: np.ndarray

    def at(self, steps: np.ndarray) -> StepAmounts:
        """The amounts at some steps."""
        return StepAmounts(self.texture_db[steps], self.expander[steps], self.fill[steps])


class GainComponents(NamedTuple):
    """What the gains at some steps are made of: arrays in dB, of shape (n_mels, steps) where nothing else is said."""

    expander_db: np.ndarray  # gain for an expander amount of 1
    tones_db: np.ndarray  # level of the tones, relative to the loudest band of the sound
    texture_db: np.ndarray  # level of the texture
    present: np.ndarray  # `presence`
    base_db: np.ndarray  # level on which generated noise is built
    level_db: np.ndarray  # of both
    quieter_db: np.ndarray  # (steps,), `quieter_around`

    def at(self, steps: np.ndarray) -> GainComponents:
        """The components at some of the steps."""
        return GainComponents(*(component[..., steps] for component in self))


class BandGains(NamedTuple):
    """Gains of mel bands at some steps, shape (n_mels, steps), in dB."""

    noise_db: np.ndarray  # gain of the noise
    generated_db: np.ndarray | None  # level of what is generated, relative to the loudest band; None if nothing is
    expander_db: np.ndarray | None  # gain of tones and noise on top; None without expander


class StepGains(NamedTuple):
    """The gains of all layers at some steps, in dB."""

    bands: BandGains
    transients_db: np.ndarray  # (steps,), gain of the transients
    level_db: np.ndarray  # (steps,) or (channels, steps), gain of everything, which keeps what the expander changes


class LerpWeights(NamedTuple):
    """Linear interpolation between columns: of ``before`` and ``after``, the latter with weight ``share``."""

    before: np.ndarray
    after: np.ndarray
    share: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Interpolate between the columns of ``values``, shape (rows, n)."""
        return values[:, self.before] * (1 - self.share) + values[:, self.after] * self.share

    def select(self, places: np.ndarray | slice) -> LerpWeights:
        """The weights of some of the places."""
        return LerpWeights(self.before[places], self.after[places], self.share[places])


def lerp_weights(times: np.ndarray, n: int) -> LerpWeights:
    """Place times between the centres of ``n`` intervals of length 1, which lie at 0.5, 1.5, and so on.

    A time before the first centre or after the last takes the value of that centre.
    """
    position = np.clip(times - 0.5, 0, n - 1)
    before = np.minimum(position.astype(int), max(n - 2, 0))
    after = np.minimum(before + 1, n - 1)
    return LerpWeights(before, after, (position - before).astype(np.float32))


def spectral_expander(level_db: np.ndarray) -> np.ndarray:
    """Spectral expander: a pattern that needs no training and moves every band away from the mean level of its time.

    Parameters
    ----------
    level_db : np.ndarray, shape (n_mels, steps), dB

    Returns
    -------
    np.ndarray, shape (n_mels, steps), gain in dB for an amount of 1
    """
    return level_db - level_db.mean(axis=0, keepdims=True)


def power_of(level_db: np.ndarray | float) -> np.ndarray:
    """Power of a level in dB."""
    return np.exp(np.float32(NEPER_PER_DB) * level_db)


def db_of(power: np.ndarray) -> np.ndarray:
    """Level of a power in dB."""
    return np.log(np.maximum(power, np.finfo(np.float32).tiny)) / np.float32(NEPER_PER_DB)


def band_gains(components: GainComponents, amounts: Amounts | StepAmounts, shares: np.ndarray) -> BandGains:
    """Gains that some amounts give the bands, before energy is normalised.

    Parameters
    ----------
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    """
    factor = np.full_like(components.texture_db, 10 ** (amounts.texture_db / 10))
    generated_db = None
    if np.any(amounts.texture_db > 0):
        limit = power_of(np.float32(TEXTURE.max_gain_db) * components.present)
        if (excess := factor - limit).max() > 0:
            generated_db = components.base_db + db_of(excess)
            factor = np.minimum(factor, limit)
    noise_db, expander_db = db_of(factor), None
    if np.any(amounts.fill):
        power = powers_before_expander(components, BandGains(noise_db, generated_db, None))
        fill = fill_power(sum(power), amounts.fill, components.quieter_db, shares)
        generated_db = db_of(fill if generated_db is None else fill + power_of(generated_db))
    if np.any(amounts.expander):
        expander_db = np.maximum(amounts.expander, 0, dtype=np.float32) * components.expander_db
    if np.any(amounts.expander < 0):
        power = powers_before_expander(components, BandGains(noise_db, generated_db, None))
        flattening = np.minimum(amounts.expander, 0, dtype=np.float32)
        expander_db += flattening * spectral_expander(db_of(sum(power)))
    return BandGains(noise_db, generated_db, expander_db)


def loud_level(power: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Level of the loud bands of each step, (steps,), in dB: the mean of the levels, weighted by power.

    Parameters
    ----------
    power : np.ndarray, shape (n_mels, steps)
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    """
    weights = power * shares[:, None].astype(np.float32)
    return (weights * db_of(power)).sum(axis=0) / weights.sum(axis=0)


def quieter_around(loud_db: np.ndarray) -> np.ndarray:
    """By how much the quietest of a step and its neighbours is quieter than the step, (steps,), <= 0 dB."""
    padded = np.pad(loud_db, 1, mode="edge")
    return np.minimum(np.minimum(padded[:-2], padded[2:]), loud_db) - loud_db


def fill_power(power: np.ndarray, amount: float | np.ndarray, quieter_db: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Power of the noise that raises weak bands towards the level of the loud ones.

    The noise is no louder than the steps around allow, because a step also sees what lies half a window around it, and
    a hit must not be heard before it comes.

    Parameters
    ----------
    power : np.ndarray, shape (n_mels, steps)
    amount : float or np.ndarray, shape (steps,), in [0, 1], of the distance in dB
    quieter_db : np.ndarray, shape (steps,), `quieter_around`
    shares : np.ndarray, shape (n_mels,), `band_fractions`
    """
    distance_db = loud_level(power, shares) + quieter_db - db_of(power)
    return power * (power_of(np.float32(amount) * np.maximum(distance_db, 0)) - 1)


class LayerPowers(NamedTuple):
    """Powers of the bands of each layer, shape (n_mels, steps), relative to the loudest band before."""

    tones: np.ndarray
    texture: np.ndarray  # what is there of it
    generated: np.ndarray


def powers_before_expander(components: GainComponents, gains: BandGains) -> LayerPowers:
    """Powers of the layers after the gains of the texture."""
    texture = power_of(components.texture_db + gains.noise_db)
    generated = np.zeros_like(texture) if gains.generated_db is None else power_of(gains.generated_db)
    return LayerPowers(power_of(components.tones_db), texture, generated)


def step_gains(components: GainComponents, amounts: Amounts | StepAmounts, shares: np.ndarray) -> StepGains:
    """Gains of all layers at consecutive steps, or at steps that stand for them.

    The transients get the gain by which the texture of their step rises as a whole: gains of single bands would spread
    a click over time.
    """
    gains = band_gains(components, amounts, shares)
    weights = shares[:, None].astype(np.float32)
    texture = power_of(components.texture_db) * weights
    transients_db = db_of((texture * power_of(gains.noise_db)).sum(axis=0) / texture.sum(axis=0))
    level_db = np.zeros_like(transients_db)
    if gains.expander_db is not None:
        before = sum(powers_before_expander(components, gains)) * weights
        change_db = db_of((before * power_of(gains.expander_db)).sum(axis=0) / before.sum(axis=0))
        level_db = -smooth_change(change_db)
    return StepGains(gains, transients_db, level_db)


def channel_gains_db(before: np.ndarray, after: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Gains that keep the balance of the channels where they hold different sounds, such as a pad and drums.

    Texture changes the level of a channel by as much as the channel consists of it. What channels have in common must
    stay where it is heard between them, so channels that resemble each other or change alike get the same gain.

    Parameters
    ----------
    before, after : np.ndarray, shape (channels,), energy
    apart : np.ndarray, shape (channels,), as in `ChannelPowers`

    Returns
    -------
    np.ndarray, shape (channels,), dB
    """
    change_db = db_of(after / np.maximum(before, np.finfo(np.float32).tiny)) - db_of(after.sum() / before.sum())
    too_far_db = np.sign(change_db) * np.maximum(np.abs(change_db) - BALANCE.balance_db, 0)
    return np.where(before > 0, -apart * too_far_db, 0).astype(np.float32)


def smooth_change(change_db: np.ndarray) -> np.ndarray:
    """Smooth a change of level over time, so that a gain that undoes it keeps dynamics but does not flutter.

    It is a bilateral filter (Tomasi and Manduchi, "Bilateral filtering for gray and color images", ICCV 1998): a mean
    over the steps around, in which those whose level changes alike count more. Without smoothing, the gains would
    flutter with a noise. With a plain mean, energy would not be kept in decays.

    Parameters
    ----------
    change_db : np.ndarray, shape (steps,)

    Returns
    -------
    np.ndarray, shape (steps,), float32
    """
    total, norm = change_db.astype(float), np.ones(len(change_db))
    kernel = np.hanning(2 * ENERGY.half_width_steps + 3)[ENERGY.half_width_steps + 1 : -1]
    for lag in range(1, min(len(kernel), len(change_db))):
        similarity = kernel[lag] * np.exp(-np.square((change_db[lag:] - change_db[:-lag]) / ENERGY.similarity_db))
        total[lag:] += similarity * change_db[:-lag]
        total[:-lag] += similarity * change_db[lag:]
        norm[lag:] += similarity
        norm[:-lag] += similarity
    return (total / norm).astype(np.float32)

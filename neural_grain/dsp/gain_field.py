"""The gain field of a sound: from amounts to the gains of every layer, band and step, and from there to audio.

Three numbers say how far a sound is moved (`Amounts`): the gain of its texture, how much its weak bands are filled with
noise, and how much of the spectral expander is applied. The gain field turns them into gains and renders the sound with
them, whole or in part. For the solver it also predicts the powers that the amounts give the frames of the probe:

    P'[t, k] = |sqrt(tones[t, k] + g cross[t, k] + g**2 texture[t, k]) + generated[t, k]|**2 expander[t, k]

where g is the factor on the amplitude of the texture, the generated noise is complex, and the expander keeps the energy
of each frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from neural_grain.audio.limiter import limit_peaks, limiter_reach
from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import (
    ENERGY,
    Amounts,
    GainComponents,
    LayerPowers,
    StepGains,
    band_gains,
    channel_gains_db,
    db_of,
    lerp_weights,
    loud_level,
    power_of,
    powers_before_expander,
    quieter_around,
    spectral_expander,
    step_gains,
)
from neural_grain.dsp.generation import WHITE_NOISE, GeneratedTexture, density_for_crest, generated_base
from neural_grain.dsp.mel import band_fractions, band_interpolation
from neural_grain.dsp.resynthesis import LayerRenderer
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, STEP_FRAMES
from neural_grain.dsp.smoothing import smooth_pattern

TILE_S = 3.0  # for which a crest factor holds: as long as a tile of the library
REFERENCE_DB = 30.0  # of texture, at which the spectrum of generated noise is taken
BALANCE_STEPS = 192  # of the probe, from which the change of each channel is estimated


class LayerGains(NamedTuple):
    """Gains of the power of the layers, averaged over channels."""

    tones: float
    texture: float
    generated: float


class ChannelBalance(NamedTuple):
    """What keeps the balance of the channels."""

    factors: np.ndarray  # (channels,), on the samples
    layers: LayerGains  # what these factors do to each layer


class GainField:
    """The gains of a sound, for any amounts.

    Parameters
    ----------
    analysis : Analysis
    texture : GeneratedTexture
        What a model says, or white noise without a model. Axes of length 1 stand for any length.
    """

    def __init__(self, analysis: Analysis, texture: GeneratedTexture = WHITE_NOISE):
        self.analysis = analysis
        settings, probe, sr = analysis.settings, analysis.probe, analysis.sound.sr
        self._shares = band_fractions(settings)
        self._last_balance: tuple[Amounts, ChannelBalance] | None = None
        self._present, self._base_db = generated_base(analysis, texture.spectrum_db)
        level = power_of(analysis.tones_db) + power_of(analysis.texture_db)
        self._quieter_db = quieter_around(loud_level(level, self._shares))
        self._expander_cells_db = steady_expander(level, analysis)
        lerp = lerp_weights((probe.index + 0.5) / STEP_FRAMES, self.n_steps)
        steps = np.unique(np.concatenate((lerp.before, lerp.after)))
        self._probe_lerp = lerp._replace(
            before=np.searchsorted(steps, lerp.before), after=np.searchsorted(steps, lerp.after)
        )
        # How many frames of the sound each of these steps stands for. A few of them tell how the channels change.
        step_weights = sum(
            np.bincount(at, probe.weights * share, len(steps))
            for at, share in ((self._probe_lerp.before, 1 - lerp.share), (self._probe_lerp.after, lerp.share))
        )
        self._balance_steps = np.linspace(0, len(steps) - 1, min(BALANCE_STEPS, len(steps))).round().astype(int)
        self._balance_weights = np.outer(self._shares, step_weights[self._balance_steps]).astype(np.float32)
        self.probe_components = self._components(steps)
        self._to_log_power = np.float32(NEPER_PER_DB) * band_interpolation(settings, sr)[:, settings.grain.band_for(sr)]
        density = density_for_crest(texture.crest_db, self._generated_amplitude(), round(TILE_S * sr))
        self._renderer = LayerRenderer(analysis, density)
        self._noise_shares = self._renderer.noise_shares(steps[self._balance_steps])
        # The probe of generated noise: its power in each bin, and twice the cosine of its phase against the sound.
        noise = self._renderer.noise_frames(len(probe.index))[:, settings.grain.band_for(sr)]
        self._generated_power = np.square(np.abs(noise))
        self._generated_cross = 2 * noise.real / np.sqrt(np.maximum(self._generated_power, np.finfo(np.float32).tiny))

    def _generated_amplitude(self) -> np.ndarray:
        """Mean amplitude of generated noise in each bin of the analysis band, in any unit."""
        components = self.probe_components
        generated_db = band_gains(components, Amounts(REFERENCE_DB, 0.0), self._shares).generated_db
        return np.exp(0.5 * db_of(power_of(generated_db).mean(axis=1)) @ self._to_log_power)

    @property
    def n_steps(self) -> int:
        """Number of steps of the sound."""
        return self.analysis.texture_db.shape[1]

    def gains(self, amounts: Amounts, start: int = 0, stop: int | None = None) -> StepGains:
        """Gains at the steps from ``start`` up to but not including ``stop``; up to the end if it is None."""
        stop = self.n_steps if stop is None else min(stop, self.n_steps)
        around = ENERGY.half_width_steps if amounts.expander else 0  # without expander, steps depend on nothing around
        first = max(0, start - around)
        steps = np.arange(first, min(self.n_steps, stop + around))
        inside = slice(start - first, stop - first)
        gains = step_gains(self._components(steps), amounts, self._shares)
        bands = [None if db is None else db[:, inside] for db in gains.bands]
        return StepGains(type(gains.bands)(*bands), gains.transients_db[inside], gains.level_db[inside])

    def gain_db_of_frames(self, amounts: Amounts, frames: np.ndarray) -> np.ndarray:
        """Change of the level of each band at some frames, for a picture.

        Where the frames are much sparser than the steps, each takes the gain of its step, so that the cost does not
        grow with the length of the sound.

        Parameters
        ----------
        frames : np.ndarray of int, rising frame numbers of the padded sound

        Returns
        -------
        np.ndarray, shape (n_mels, len(frames)), float32, dB
        """
        start, stop = max(0, int(frames[0]) // STEP_FRAMES - 1), int(frames[-1]) // STEP_FRAMES + 2
        if stop - start > 2 * len(frames):
            return self._change_db_at(amounts, np.minimum(frames // STEP_FRAMES, self.n_steps - 1))
        change_db = self._change_db_at(amounts, np.arange(start, min(stop, self.n_steps)))
        return lerp_weights((frames + 0.5) / STEP_FRAMES - start, change_db.shape[1]).interpolate(change_db)

    def channel_factors(self, amounts: Amounts) -> np.ndarray:
        """Factors on the samples of the channels, shape (channels,), which keep their balance."""
        return self._balance(amounts).factors

    def _balance(self, amounts: Amounts) -> ChannelBalance:
        key = replace(amounts, level=1.0)
        if self._last_balance is None or self._last_balance[0] != key:
            self._last_balance = key, self._balance_of(key)
        return self._last_balance[1]

    def _balance_of(self, amounts: Amounts) -> ChannelBalance:
        channels = self.analysis.channels
        if len(channels.apart) == 1:
            return ChannelBalance(np.ones(1, np.float32), LayerGains(1.0, 1.0, 1.0))
        components = self.probe_components.at(self._balance_steps)
        gains = step_gains(components, amounts, self._shares)
        after = powers_before_expander(components, gains.bands)
        if gains.bands.expander_db is not None:
            after = LayerPowers(*(power * power_of(gains.bands.expander_db + gains.level_db) for power in after))

        def energy(power: np.ndarray) -> np.ndarray:
            return (power * self._balance_weights).sum(axis=0)  # (steps,)

        tones, texture = energy(power_of(components.tones_db)).sum(), energy(power_of(components.texture_db)).sum()
        energies = np.stack([  # (layers, channels), relative to that of the whole sound before
            channels.layers[0] * energy(after.tones).sum() / tones,
            channels.layers[1] * energy(after.texture).sum() / texture,
            energy(after.generated) @ self._noise_shares / (tones + texture),
        ])  # fmt: skip
        factors = power_of(0.5 * channel_gains_db(channels.layers.sum(axis=0), energies.sum(axis=0), channels.apart))
        tiny = np.finfo(np.float32).tiny
        layers = (energies @ np.square(factors, dtype=float) + tiny) / (energies.sum(axis=1) + tiny)
        return ChannelBalance(factors, LayerGains(*map(float, layers)))

    def render(self, amounts: Amounts) -> Iterator[np.ndarray]:
        """Render the whole sound in blocks of samples, without a limiter."""
        level = amounts.level * self.channel_factors(amounts)
        return self._renderer.render(partial(self.gains, amounts), level, threads=self.analysis.threads)

    def render_layer(self, amounts: Amounts, layer: str, ceiling: float) -> Iterator[np.ndarray]:
        """Render the "tones" or the "texture" of the whole sound, in blocks of samples.

        Both add up to what `render` and `limit_peaks` give: they have the gain by which the whole is limited.
        """
        sound, level = self.analysis.sound, amounts.level * self.channel_factors(amounts)
        blocks = self._renderer.render(
            partial(self.gains, amounts), level, with_tones=True, threads=self.analysis.threads
        )
        for block in limit_peaks(blocks, ceiling, sound, carried=sound.channels):
            whole, tones = np.split(block, 2, axis=1)
            yield tones if layer == "tones" else whole - tones

    def render_part(
        self, amounts: Amounts, start: int, stop: int, ceiling: float = math.inf, *, with_tones: bool = False
    ) -> np.ndarray:
        """Render the samples from ``start`` up to but not including ``stop``, as `render` and `limit_peaks` give them.

        Parameters
        ----------
        ceiling : float > 0, of the limiter
        with_tones : whether the tones of the result follow in further channels

        Returns
        -------
        np.ndarray, shape (stop - start, channels or 2 channels), float32
        """
        sound = self.analysis.sound
        # The limiter has no memory, so it gives these samples the same gain with only its own reach around them.
        first, last = max(0, start - limiter_reach(sound.sr)), min(sound.n_samples, stop + limiter_reach(sound.sr))
        level = amounts.level * self.channel_factors(amounts)
        part = self._renderer.render_range(partial(self.gains, amounts), first, last, level, with_tones=with_tones)
        carried = sound.channels if with_tones else 0
        return np.concatenate(list(limit_peaks([part], ceiling, sound, carried=carried)))[start - first : stop - first]

    @ONE_BLAS_THREAD
    def probe_log_power(self, amounts: Amounts, frames: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Natural logarithm of the probe's powers after the gains, before those of the whole sound (`Amounts.level`).

        Parameters
        ----------
        frames : np.ndarray of int or slice, which frames of the probe

        Returns
        -------
        np.ndarray, shape (frames, bins of the analysis band), float32
        """
        lerp, probe = self._probe_lerp.select(frames), self.analysis.probe
        steps, places = np.unique(np.concatenate((lerp.before, lerp.after)), return_inverse=True)
        lerp = lerp._replace(before=places[: len(places) // 2], after=places[len(places) // 2 :])
        gains = band_gains(self.probe_components.at(steps), amounts, self._shares)

        def log_gain(gain_db: np.ndarray) -> np.ndarray:
            return lerp.interpolate(gain_db).T @ self._to_log_power

        factor = np.exp(0.5 * log_gain(gains.noise_db))
        layers = self._balance(amounts).layers
        factor *= np.float32(math.sqrt(layers.texture / layers.tones))
        power = probe.texture[frames] * factor
        power += probe.cross[frames]
        power *= factor
        power += probe.tones[frames]
        if gains.generated_db is not None:
            generated = self._generated_power[frames] * np.exp(log_gain(gains.generated_db))
            generated *= np.float32(layers.generated / layers.tones)
            np.maximum(power, 0, out=power)
            power += generated + self._generated_cross[frames] * np.sqrt(power * generated)
        log_power = np.log(np.maximum(power, np.finfo(np.float32).tiny, out=power), out=power)
        log_power += np.float32(math.log(layers.tones))
        if gains.expander_db is not None:
            before = log_mean_power(log_power)
            log_power += log_gain(gains.expander_db)
            log_power += (before - log_mean_power(log_power))[:, None]
        return log_power

    def _change_db_at(self, amounts: Amounts, steps: np.ndarray) -> np.ndarray:
        """Change of the level of each band at some rising steps."""
        components = self._components(steps)
        gains = step_gains(components, amounts, self._shares)
        powers = np.stack(powers_before_expander(components, gains.bands))  # (layers, n_mels, steps)
        change_db = db_of(np.tensordot(self._balance(amounts).layers, powers, 1)) - components.level_db
        if gains.bands.expander_db is not None:
            change_db += gains.bands.expander_db + gains.level_db
        return change_db + np.float32(20 * math.log10(amounts.level))

    def _components(self, steps: np.ndarray) -> GainComponents:
        """What the gains at some steps are made of."""
        tones_db, texture_db = self.analysis.tones_db[:, steps], self.analysis.texture_db[:, steps]
        level_db = db_of(power_of(tones_db) + power_of(texture_db))
        cells_db = self._expander_cells_db
        lerp = lerp_weights((steps + 0.5) * STEP_FRAMES / CELL_FRAMES, cells_db.shape[1])
        return GainComponents(
            lerp.interpolate(cells_db),
            tones_db,
            texture_db,
            self._present[:, steps],
            self._base_db[:, steps],
            level_db,
            self._quieter_db[steps],
        )


def steady_expander(power: np.ndarray, analysis: Analysis) -> np.ndarray:
    """The spectral expander of each cell, smoothed over time where the sound stays the same: (n_mels, cells), dB.

    The levels of a steady noise are random at any moment. Expanded as they are, they would flutter.

    Parameters
    ----------
    power : np.ndarray, shape (n_mels, steps)
    """
    size = CELL_FRAMES // STEP_FRAMES
    starts = np.arange(0, power.shape[1], size)
    counts = np.diff(np.append(starts, power.shape[1]))
    cells_db = db_of(np.add.reduceat(power, starts, axis=1) / counts)
    return smooth_pattern(spectral_expander(cells_db), analysis.x, analysis.settings)


def log_mean_power(log_power: np.ndarray) -> np.ndarray:
    """Natural logarithm of the mean power of frames, (frames,), from those of their bins, (frames, bins)."""
    top = log_power.max(axis=1)
    return top + np.log(np.exp(log_power - top[:, None]).mean(axis=1, dtype=np.float32))

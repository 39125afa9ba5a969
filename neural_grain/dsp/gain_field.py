"""The gain field of a sound: from amounts to the gains of every layer, band and step, and from there to audio.

Three numbers say how far a sound is moved (`Amounts`): the gain of its texture, how much its weak bands are filled with
noise, and how much of the spectral expander is applied. They may change over time (`AmountCurve`). The gain field turns
them into gains and renders the sound with them, whole or in part.

In: an `Analysis`, and amounts. Out: `StepGains`, and blocks of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from neural_grain.audio.limiter import limit_peaks, limiter_reach
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import (
    ENERGY,
    AmountCurve,
    Amounts,
    GainComponents,
    LayerPowers,
    LerpWeights,
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
from neural_grain.dsp.mix import NO_MIX, Mix, mix_samples
from neural_grain.dsp.resynthesis import PIECE_SAMPLES, LayerRenderer
from neural_grain.dsp.settings import CELL_FRAMES, STEP_FRAMES
from neural_grain.dsp.smoothing import smooth_pattern

TILE_S = 3.0  # for which a crest factor holds: as long as a tile of the library
REFERENCE_DB = 30.0  # of texture, at which the spectrum of generated noise is taken
BALANCE_STEPS = 192  # of the probe, from which the change of each channel is estimated


class LayerGains(NamedTuple):
    """Gains of the power of the layers, averaged over channels."""

    tones: float
    texture: float
    generated: float


class LayerLevels(NamedTuple):
    """Levels of the bands of both layers, shape (n_mels, frames), dB relative to the loudest band before."""

    tones_db: np.ndarray
    texture_db: np.ndarray  # with what is generated


class ChannelBalance(NamedTuple):
    """What keeps the balance of the channels."""

    factors: np.ndarray | float  # (channels,), on the samples
    layers: LayerGains  # what these factors do to each layer


NO_BALANCE = ChannelBalance(1.0, LayerGains(1.0, 1.0, 1.0))


class ProbeSteps(NamedTuple):
    """The steps between which the gains of some frames are interpolated."""

    steps: np.ndarray  # their numbers, rising
    lerp: LerpWeights  # of each frame, between places among these steps

    @classmethod
    def of(cls, frames: np.ndarray, n_steps: int) -> ProbeSteps:
        """The steps around frames with these numbers in the padded sound, shape (frames,)."""
        lerp = lerp_weights((frames + 0.5) / STEP_FRAMES, n_steps)
        steps, places = np.unique(np.concatenate((lerp.before, lerp.after)), return_inverse=True)
        return cls(steps, lerp._replace(before=places[: len(frames)], after=places[len(frames) :]))

    def weights(self, of_frames: np.ndarray) -> np.ndarray:
        """Weights of the steps, from those of the frames."""
        before, after, share = self.lerp
        n = len(self.steps)
        return np.bincount(before, of_frames * (1 - share), n) + np.bincount(after, of_frames * share, n)


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
        self.shares = band_fractions(analysis.settings)
        self._last_balance: tuple[Amounts, ChannelBalance] | None = None
        self._present, self._base_db = generated_base(analysis, texture.spectrum_db)
        level = power_of(analysis.tones_db) + power_of(analysis.texture_db)
        self._quieter_db = quieter_around(loud_level(level, self.shares))
        self._expander_cells_db = steady_expander(level, analysis)
        probe = ProbeSteps.of(analysis.probe.index, self.n_steps)
        components = self.components(probe.steps)
        # How many frames of the sound each of these steps stands for. A few of them tell how the channels change.
        some = np.linspace(0, len(probe.steps) - 1, min(BALANCE_STEPS, len(probe.steps))).round().astype(int)
        weights = probe.weights(analysis.probe.weights)[some]
        self._balance_components = components.at(some)
        self._balance_weights = np.outer(self.shares, weights).astype(np.float32)
        density = density_for_crest(
            texture.crest_db, self._generated_amplitude(components), round(TILE_S * analysis.sound.sr)
        )
        self.renderer = LayerRenderer(analysis, density)
        self._noise_shares = self.renderer.noise_shares(probe.steps[some])

    def _generated_amplitude(self, components: GainComponents) -> np.ndarray:
        """Mean amplitude of generated noise in each bin of the analysis band, in any unit."""
        settings, sr = self.analysis.settings, self.analysis.sound.sr
        generated_db = band_gains(components, Amounts(REFERENCE_DB, 0.0), self.shares).generated_db
        to_bins = band_interpolation(settings, sr)[:, settings.grain.band_for(sr)]
        return power_of(0.5 * db_of(power_of(generated_db).mean(axis=1)) @ to_bins)

    @property
    def n_steps(self) -> int:
        """Number of steps of the sound."""
        return self.analysis.texture_db.shape[1]

    def gains(self, amounts: Amounts | AmountCurve, start: int = 0, stop: int | None = None) -> StepGains:
        """Gains at the steps from ``start`` up to but not including ``stop``; up to the end if it is None."""
        stop = self.n_steps if stop is None else min(stop, self.n_steps)
        # Without expander, steps depend on nothing around.
        around = ENERGY.half_width_steps if np.any(amounts.expander) else 0
        first = max(0, start - around)
        steps = np.arange(first, min(self.n_steps, stop + around))
        inside = slice(start - first, stop - first)
        gains = step_gains(self.components(steps), amounts.at(steps), self.shares)
        bands = [None if db is None else db[:, inside] for db in gains.bands]
        level_db = gains.level_db[inside]
        if isinstance(amounts, AmountCurve):
            level_db = level_db + amounts.level_db[:, start:stop]
        return StepGains(type(gains.bands)(*bands), gains.transients_db[inside], level_db)

    def gain_db_of_frames(self, amounts: Amounts | AmountCurve, frames: np.ndarray) -> np.ndarray:
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
        return self.balance(amounts).factors

    def balance(self, amounts: Amounts | AmountCurve) -> ChannelBalance:
        """What keeps the balance of the channels. A curve of amounts has that in its level."""
        if isinstance(amounts, AmountCurve):
            return NO_BALANCE
        key = replace(amounts, level=1.0)
        if self._last_balance is None or self._last_balance[0] != key:
            self._last_balance = key, self._balance_of(key)
        return self._last_balance[1]

    def _balance_of(self, amounts: Amounts) -> ChannelBalance:
        channels = self.analysis.channels
        if len(channels.apart) == 1:
            return NO_BALANCE
        components = self._balance_components
        gains = step_gains(components, amounts, self.shares)
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

    def render(self, amounts: Amounts | AmountCurve, mix: Mix = NO_MIX) -> Iterator[np.ndarray]:
        """Render the whole sound in blocks of samples, without a limiter."""
        return self._blocks(amounts, mix, with_tones=False)

    def render_layer(
        self, amounts: Amounts | AmountCurve, layer: str, ceiling: float, mix: Mix = NO_MIX
    ) -> Iterator[np.ndarray]:
        """Render the "tones" or the "texture" of the whole sound, in blocks of samples.

        Both add up to what `render` and `limit_peaks` give: they have the gain by which the whole is limited.
        """
        sound = self.analysis.sound
        for block in limit_peaks(self._blocks(amounts, mix, with_tones=True), ceiling, sound, carried=sound.channels):
            whole, tones = np.split(block, 2, axis=1)
            yield tones if layer == "tones" else whole - tones

    def render_part(
        self,
        amounts: Amounts | AmountCurve,
        start: int,
        stop: int,
        ceiling: float = math.inf,
        *,
        mix: Mix = NO_MIX,
        with_tones: bool = False,
    ) -> np.ndarray:
        """Render the samples from ``start`` up to but not including ``stop``, as `render` and `limit_peaks` give them.

        Parameters
        ----------
        ceiling : float > 0, of the limiter
        mix : with the input, before the limiter
        with_tones : whether the tones of the result follow in further channels

        Returns
        -------
        np.ndarray, shape (stop - start, channels or 2 channels), float32
        """
        sound = self.analysis.sound
        # The limiter has no memory, so it gives these samples the same gain with only its own reach around them.
        first, last = max(0, start - limiter_reach(sound.sr)), min(sound.n_samples, stop + limiter_reach(sound.sr))
        if mix.wet == 0:
            part = self._dry(first, last, with_tones)
        else:
            part = self.renderer.render_range(
                partial(self.gains, amounts), first, last, self._level(amounts), with_tones=with_tones
            )
        part = self._mixed(part, first, mix, with_tones)
        carried = sound.channels if with_tones else 0
        return np.concatenate(list(limit_peaks([part], ceiling, sound, carried=carried)))[start - first : stop - first]

    def _blocks(self, amounts: Amounts | AmountCurve, mix: Mix, *, with_tones: bool) -> Iterator[np.ndarray]:
        """Render and mix the whole sound, perhaps with its tones in further channels, without a limiter."""
        start, n_samples, layers = 0, self.analysis.sound.n_samples, self.analysis.layers
        if mix.wet == 0:
            starts = range(0, n_samples, PIECE_SAMPLES)
            blocks = (self._dry(i, min(i + PIECE_SAMPLES, n_samples), with_tones) for i in starts)
        else:
            blocks = self.renderer.render(
                partial(self.gains, amounts), self._level(amounts), with_tones=with_tones, threads=self.analysis.threads
            )
        for block in blocks:
            yield self._mixed(block, start, mix, with_tones)
            start += len(block)
            if mix.wet != 1:
                layers.release_pages()

    def _dry(self, start: int, stop: int, with_tones: bool) -> np.ndarray:
        """Samples of the input, which is the sum of its layers, perhaps with its tones in further channels."""
        layers = self.analysis.layers
        tones = layers.tones[start:stop]
        y = tones + layers.texture(start, stop)
        return np.concatenate((y, tones), axis=1) if with_tones else y

    def _mixed(self, wet: np.ndarray, start: int, mix: Mix, with_tones: bool) -> np.ndarray:
        """Mix rendered samples, from ``start`` on, with those of the input."""
        dry = wet if mix.wet in (0, 1) else self._dry(start, start + len(wet), with_tones)
        return mix_samples(dry, wet, mix)

    def _level(self, amounts: Amounts | AmountCurve) -> np.ndarray | float:
        """Factor on the samples of the whole sound, one for each channel where they need their own."""
        return 1.0 if isinstance(amounts, AmountCurve) else amounts.level * self.channel_factors(amounts)

    def layer_levels(self, amounts: Amounts | AmountCurve | None, frames: np.ndarray) -> LayerLevels:
        """Levels of the layers after these amounts, or as they are for None, at some frames, for a picture.

        Parameters
        ----------
        frames : np.ndarray of int, rising frame numbers of the padded sound; each takes the levels of its step
        """
        steps = np.minimum(frames // STEP_FRAMES, self.n_steps - 1)
        if amounts is None:
            return LayerLevels(self.analysis.tones_db[:, steps], self.analysis.texture_db[:, steps])
        powers, common_db = self._powers_at(amounts, steps)
        return LayerLevels(db_of(powers.tones) + common_db, db_of(powers.texture + powers.generated) + common_db)

    def _change_db_at(self, amounts: Amounts | AmountCurve, steps: np.ndarray) -> np.ndarray:
        """Change of the level of each band at some rising steps."""
        powers, common_db = self._powers_at(amounts, steps)
        before_db = db_of(power_of(self.analysis.tones_db[:, steps]) + power_of(self.analysis.texture_db[:, steps]))
        return db_of(sum(powers)) - before_db + common_db

    def _powers_at(self, amounts: Amounts | AmountCurve, steps: np.ndarray) -> tuple[LayerPowers, np.ndarray]:
        """Powers of the layers at some rising steps, and the gain in dB that all of them have in addition."""
        components = self.components(steps)
        gains = step_gains(components, amounts.at(steps), self.shares)
        powers = powers_before_expander(components, gains.bands)
        balanced = LayerPowers(
            *(gain * power for gain, power in zip(self.balance(amounts).layers, powers, strict=True))
        )
        is_curve = isinstance(amounts, AmountCurve)
        common_db = amounts.level_db[:, steps].mean(axis=0) if is_curve else np.float32(20 * math.log10(amounts.level))
        if gains.bands.expander_db is not None:
            common_db = common_db + gains.bands.expander_db + gains.level_db
        return balanced, common_db

    def components(self, steps: np.ndarray) -> GainComponents:
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

"""Prediction: the powers that some frames of a sound have after its gains, without rendering.

    P'[t, k] = |sqrt(tones[t, k] + g cross[t, k] + g**2 texture[t, k]) + generated[t, k]|**2 expander[t, k]

where g is the factor on the amplitude of the texture, the generated noise is complex, and the expander keeps the energy
of each frame.

In: a `GainField`, a `Probe` of the same sound, and amounts. Out: powers of shape (frames, bins of the analysis band).
"""

from __future__ import annotations

import math

import numpy as np

from neural_grain.base.parallel import ONE_BLAS_THREAD
from neural_grain.dsp.gain_field import NO_BALANCE, GainField, ProbeSteps
from neural_grain.dsp.gains import AmountCurve, Amounts, band_gains
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.probe import Probe
from neural_grain.dsp.settings import NEPER_PER_DB


class PowerPredictor:
    """Predicts the powers of the frames of a probe.

    Parameters
    ----------
    field : GainField
    probe : Probe of the same sound
    balanced : whether the channels get the gains that keep their balance
    """

    def __init__(self, field: GainField, probe: Probe, *, balanced: bool = True):
        self.field, self.probe, self._balanced = field, probe, balanced
        settings, sr = field.analysis.settings, field.analysis.sound.sr
        band = settings.grain.band_for(sr)
        self._at = ProbeSteps.of(probe.index, field.n_steps)
        self._components = field.components(self._at.steps)
        self._to_log_power = np.float32(NEPER_PER_DB) * band_interpolation(settings, sr)[:, band]
        # Generated noise: its power in each bin, and twice the cosine of its phase against the sound.
        noise = field.renderer.noise_frames(len(probe.index))[:, band]
        self._generated_power = np.square(np.abs(noise))
        self._generated_cross = 2 * noise.real / np.sqrt(np.maximum(self._generated_power, np.finfo(np.float32).tiny))

    @ONE_BLAS_THREAD
    def log_power(self, amounts: Amounts | AmountCurve, frames: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Natural logarithm of the probe's powers after the gains, before those of the whole sound (`Amounts.level`).

        Parameters
        ----------
        frames : np.ndarray of int or slice, which frames of the probe

        Returns
        -------
        np.ndarray, shape (frames, bins of the analysis band), float32
        """
        lerp, probe = self._at.lerp.select(frames), self.probe
        places, inverse = np.unique(np.concatenate((lerp.before, lerp.after)), return_inverse=True)
        lerp = lerp._replace(before=inverse[: len(inverse) // 2], after=inverse[len(inverse) // 2 :])
        gains = band_gains(self._components.at(places), amounts.at(self._at.steps[places]), self.field.shares)

        def log_gain(gain_db: np.ndarray) -> np.ndarray:
            return lerp.interpolate(gain_db).T @ self._to_log_power

        factor = np.exp(0.5 * log_gain(gains.noise_db))
        layers = (self.field.balance(amounts) if self._balanced else NO_BALANCE).layers
        factor *= np.float32(math.sqrt(layers.texture / layers.tones))
        power = probe.texture[frames] * factor
        power += probe.cross[frames]
        power *= factor
        power += probe.tones[frames]
        if gains.generated_db is not None:
            generated = self._generated_power[frames] * np.exp(log_gain(gains.generated_db))
            generated *= np.float32(layers.generated / layers.tones)
            np.maximum(power, 0, out=power)
            power += generated + self._generated_cross[frames] * np.sqrt(power) * np.sqrt(generated)
        log_power = np.log(np.maximum(power, np.finfo(np.float32).tiny, out=power), out=power)
        log_power += np.float32(math.log(layers.tones))
        if gains.expander_db is not None:
            before = log_mean_power(log_power)
            log_power += log_gain(gains.expander_db)
            log_power += (before - log_mean_power(log_power))[:, None]
        return log_power

    def power_left_db(self, texture_db: float) -> float:
        """Change of the power of the probe, before the level is corrected, where the whole texture gets this gain."""
        probe, factor = self.probe, 10 ** (texture_db / 20)
        tones, cross, texture = (
            float(probe.weights @ power.mean(axis=1)) for power in (probe.tones, probe.cross, probe.texture)
        )
        left = tones + factor * cross + factor**2 * texture
        return 10 * math.log10(max(left, 1e-20) / (tones + cross + texture))

    @property
    def expander_spread_db(self) -> float:
        """Largest distance between the gains that the expander gives the bands of a step, for an amount of 1."""
        return float(np.max(np.ptp(self._components.expander_db, axis=0)))


def log_mean_power(log_power: np.ndarray) -> np.ndarray:
    """Natural logarithm of the mean power of frames, (frames,), from those of their bins, (frames, bins)."""
    top = log_power.max(axis=1)
    return top + np.log(np.exp(log_power - top[:, None]).mean(axis=1, dtype=np.float32))

"""Dry/wet and output gain: how a moved sound is mixed with the input.

    out = g ((1 - w) dry + w wet),   g = 10**(gain_db / 20)

The moved sound has no latency, so both are added sample by sample, and no comb filter appears. The slider's law is that
of the wet sound: amounts are found and measured before the mix. A limiter works on the mix, not on its parts.

In: samples of the input and of the moved sound, of the same shape, and a `Mix`. Out: samples of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_GAIN_DB = 24.0


@dataclass(frozen=True)
class Mix:
    """How much of the output is the moved sound, and the output gain.

    Parameters
    ----------
    wet : float within 0 to 1: 0 is the input, 1 the moved sound
    gain_db : float within -24 to +24, after the mix
    """

    wet: float = 1.0
    gain_db: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.wet <= 1:
            raise ValueError(f"wet={self.wet} must be within 0 to 1")
        if not abs(self.gain_db) <= MAX_GAIN_DB:
            raise ValueError(f"gain_db={self.gain_db} must be within -{MAX_GAIN_DB:g} to +{MAX_GAIN_DB:g}")

    @property
    def is_neutral(self) -> bool:
        """True if the output is the moved sound as it is."""
        return self.wet == 1 and self.gain_db == 0

    @property
    def gain(self) -> float:
        """Factor on the samples."""
        return 10 ** (self.gain_db / 20)

    @property
    def percent(self) -> float:
        """Share of the moved sound in percent."""
        return round(100 * self.wet, 6)


NO_MIX = Mix()


def mix_samples(dry: np.ndarray, wet: np.ndarray, mix: Mix) -> np.ndarray:
    """Mix samples of the input with those of the moved sound.

    Where the mix is all of one of them, without a gain, the result is that array itself.

    Parameters
    ----------
    dry, wet : np.ndarray, of the same shape and type

    Returns
    -------
    np.ndarray, of that shape and type
    """
    share = dry.dtype.type(mix.wet)
    y = wet if mix.wet == 1 else dry if mix.wet == 0 else (1 - share) * dry + share * wet
    return y if mix.gain_db == 0 else dry.dtype.type(mix.gain) * y


def describe_mix(mix: Mix) -> str:
    """A mix in words, such as "50 % wet, gain -3.0 dB"; empty if it is neutral."""
    wet = f"{mix.percent:g} % wet" if mix.wet != 1 else ""
    gain = f"gain {mix.gain_db:+.1f} dB" if mix.gain_db else ""
    return ", ".join(filter(None, (wet, gain)))

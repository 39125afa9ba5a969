"""Where the open sound stands among the sounds that a model learned from."""

from __future__ import annotations

from dataclasses import dataclass

from neural_grain.data.histogram import GrainHistogram


@dataclass(frozen=True)
class LibraryState:
    """Grain of a library and of a sound.

    Attributes
    ----------
    histogram : GrainHistogram or None without a library
    before, after : float or None, grain of the open sound
    is_measured : bool, whether ``after`` was measured rather than requested
    """

    histogram: GrainHistogram | None = None
    before: float | None = None
    after: float | None = None
    is_measured: bool = False

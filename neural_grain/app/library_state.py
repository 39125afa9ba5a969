"""Where the open sound stands among the sounds that a model learned from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LibraryState:
    """Grain of a library and of a sound.

    Attributes
    ----------
    log2_edges : tuple of float, n + 1 rising edges of the bins of the histogram; empty without a library
    counts : tuple of int, n numbers of sounds
    before, after : float or None, grain of the open sound
    is_measured : bool, whether ``after`` was measured rather than requested
    """

    log2_edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    before: float | None = None
    after: float | None = None
    is_measured: bool = False

"""The distribution of grain over a library: a histogram of log2(grain), small enough to be stored in a model.

An octave of grain is a step of 1 in log2(grain), so the columns of the histogram have the unit of the slider. In: the
grain of each recording. Out: a `GrainHistogram`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from neural_grain.base.records import parse_record

MAX_COLUMNS = 24
STEPS_OCTAVES = (0.25, 0.5, 1.0, 2.0, 4.0)  # grain lies within 1e-10 and 1, which are 34 octaves
MIN_OCTAVES = -100.0  # of an edge that is read: far below the smallest grain that can be measured


@dataclass(frozen=True)
class GrainHistogram:
    """Numbers of recordings in equal steps of log2(grain).

    Attributes
    ----------
    first_octaves : float, log2 of the grain at which the first column begins
    step_octaves : float > 0, width of a column
    counts : tuple of int >= 0, recordings in each column, at most MAX_COLUMNS
    """

    first_octaves: Annotated[float, Meta(ge=MIN_OCTAVES, le=0)]
    step_octaves: Annotated[float, Meta(gt=0, le=STEPS_OCTAVES[-1])]
    counts: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**53)], ...], Meta(min_length=1, max_length=MAX_COLUMNS)]

    @classmethod
    def of(cls, grains: Iterable[float]) -> GrainHistogram:
        """Count grains, each within 0 (exclusive) to 1, in the finest steps for which MAX_COLUMNS are enough."""
        octaves = np.log2(list(grains))
        for step in STEPS_OCTAVES:
            columns = np.minimum(np.floor(octaves / step), -1).astype(int)  # a grain of 1 is the upper edge
            counts = np.bincount(columns - columns.min())
            if len(counts) <= MAX_COLUMNS:
                break
        return cls(float(columns.min() * step), step, tuple(counts.tolist()))

    @property
    def log2_edges(self) -> tuple[float, ...]:
        """log2 of grain at the edges of the columns, one more than there are columns."""
        return tuple(self.first_octaves + self.step_octaves * i for i in range(len(self.counts) + 1))


def parse_histogram(record: object, where: str) -> GrainHistogram:
    """Check a histogram that was read from a model; an error names the field."""
    return parse_record(GrainHistogram, record, where)

"""The distribution of grain over a library fits into a model, and a damaged one is refused."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from neural_grain.base.errors import PipelineError
from neural_grain.data.histogram import MAX_COLUMNS, GrainHistogram, parse_histogram


def test_a_column_holds_the_recordings_between_its_edges():
    histogram = GrainHistogram.of([2**-5.9, 2**-5.8, 2**-5.6, 2**-5.1])
    assert histogram == GrainHistogram(-6.0, 0.25, (2, 1, 0, 1))
    assert histogram.log2_edges == (-6.0, -5.75, -5.5, -5.25, -5.0)


@pytest.mark.parametrize("lowest", [1.0, 0.5, 1e-2, 1e-5, 1e-10])
def test_a_library_of_any_spread_fits(lowest):
    grains = np.geomspace(lowest, 1.0, 1000)
    histogram = GrainHistogram.of(grains)
    assert len(histogram.counts) <= MAX_COLUMNS
    assert sum(histogram.counts) == 1000
    edges = 2.0 ** np.array(histogram.log2_edges)
    assert edges[0] <= lowest
    assert edges[-1] >= 1.0
    inside = np.histogram(grains, edges)[0]
    np.testing.assert_allclose(inside, histogram.counts, atol=1)  # a grain on an edge may be rounded to either side


def test_one_recording_is_one_column():
    assert GrainHistogram.of([0.3]).counts == (1,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [1] * (MAX_COLUMNS + 1)}, "counts"),
        ({"counts": []}, "counts"),
        ({"counts": [-1]}, "counts"),
        ({"counts": "many"}, "counts"),
        ({"step_octaves": 0.0}, "step_octaves"),
        ({"step_octaves": float("nan")}, "step_octaves"),
        ({"first_octaves": 3.0}, "first_octaves"),
        ({"first_octaves": float("-inf")}, "first_octaves"),
    ],
)
def test_a_histogram_that_is_none_is_refused(change, message):
    good = asdict(GrainHistogram(-6.0, 0.25, (2, 1)))
    assert parse_histogram(good, "model.pt: grains") == GrainHistogram(-6.0, 0.25, (2, 1))
    with pytest.raises(PipelineError, match=message):
        parse_histogram({**good, **change}, "model.pt: grains")


def test_what_is_no_record_is_refused():
    with pytest.raises(PipelineError, match="grains"):
        parse_histogram([1, 2], "model.pt: grains")

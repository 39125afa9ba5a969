"""Renderings of twenty sounds have the figures of the golden table: a change of platform or library is noticed."""

from __future__ import annotations

import json

import pytest
from golden import GOLDEN, POSITIONS, SOUNDS, figures_of

TABLE = json.loads(GOLDEN.read_text())
GRAIN_OCTAVES = 0.03  # the law is corrected to 0.02; another rounding may stop a correction earlier
TEXTURE_DB = 0.6  # where grain is near its floor, it hardly depends on the gain
LEVEL_DB = 0.1
BAND_DB = 0.5
QUIET_DB = -75.0  # quieter bands are not heard and not compared


def test_the_table_has_every_sound():
    assert TABLE.keys() == SOUNDS.keys()
    assert len(TABLE) == 20


@pytest.mark.parametrize("name", SOUNDS)
def test_a_rendering_has_the_figures_of_the_table(name):
    golden, now = TABLE[name], figures_of(name)
    assert now["grain"] == pytest.approx(golden["grain"], rel=0.005)
    for position in (f"{each:+g}" for each in POSITIONS):
        got, expected = now[position], golden[position]
        assert got["grain"] == pytest.approx(expected["grain"], rel=2**GRAIN_OCTAVES - 1)
        assert got["texture_db"] == pytest.approx(expected["texture_db"], abs=TEXTURE_DB)
        assert got["level_db"] == pytest.approx(expected["level_db"], abs=LEVEL_DB)
        heard = [i for i, level_db in enumerate(expected["bands_db"]) if level_db > QUIET_DB]
        assert heard
        for i in heard:
            assert got["bands_db"][i] == pytest.approx(expected["bands_db"][i], abs=BAND_DB), i

"""Twenty sounds and their renderings have the figures of the golden table: a change of platform or library is noticed."""

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
#: Without a solver between: random changes of 1e-7 of each sample move these by up to 0.17 dB, in a chirp.
GIVEN_DB = 0.35
GIVEN_QUIET_DB = -85.0


def test_the_table_has_every_sound():
    assert TABLE.keys() == SOUNDS.keys()
    assert len(TABLE) == 20


def assert_close(
    got_db: list[float], expected_db: list[float], tolerance_db: float, quiet_db: float, what: str
) -> None:
    """Spectra are the same in every band that is not quiet."""
    for i, (got, expected) in enumerate(zip(got_db, expected_db, strict=True)):
        if max(got, expected) > quiet_db:
            assert got == pytest.approx(expected, abs=tolerance_db), f"{what}, band {i}"


@pytest.mark.parametrize("name", SOUNDS)
def test_a_rendering_has_the_figures_of_the_table(name):
    golden, now = TABLE[name], figures_of(name)
    assert now["grain"] == pytest.approx(golden["grain"], rel=0.005)
    for position in (f"{each:+g}" for each in POSITIONS):
        got, expected = now[position], golden[position]
        assert got["grain"] == pytest.approx(expected["grain"], rel=2**GRAIN_OCTAVES - 1)
        assert got["texture_db"] == pytest.approx(expected["texture_db"], abs=TEXTURE_DB)
        assert got["level_db"] == pytest.approx(expected["level_db"], abs=LEVEL_DB)
        assert any(level_db > QUIET_DB for level_db in expected["bands_db"])
        assert_close(got["bands_db"], expected["bands_db"], BAND_DB, QUIET_DB, position)
    for figures in ("layers_db", "given_db"):
        for what, expected_db in golden[figures].items():
            assert_close(now[figures][what], expected_db, GIVEN_DB, GIVEN_QUIET_DB, what)
    assert now["curve_db"] == pytest.approx(golden["curve_db"], rel=0.03, abs=GIVEN_DB)

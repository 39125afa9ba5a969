"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
from conftest import SR

from neural_grain.audio.formats import encode_samples


class TestSampleFormats:
    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
    def test_writing_is_the_exact_inverse_of_reading(self, tmp_path, subtype):
        rng = np.random.default_rng(0)
        sf.write(tmp_path / "a.wav", rng.uniform(-1, 1, 5000), SR, subtype)
        y, _ = sf.read(tmp_path / "a.wav", dtype="float64")
        sf.write(tmp_path / "b.wav", encode_samples(y, subtype), SR, subtype)
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    def test_what_is_too_loud_is_held_at_full_scale(self):
        np.testing.assert_array_equal(encode_samples(np.array([2.0, -2.0]), "PCM_16"), [32767, -32768])
        np.testing.assert_array_equal(encode_samples(np.array([2.0, -2.0]), "PCM_24"), [(2**23 - 1) << 8, -(2**31)])

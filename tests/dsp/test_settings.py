"""Settings: what a file may say, and what it may not."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from neural_grain.base.errors import PipelineError
from neural_grain.dsp.settings import GrainSettings, default_settings, parse_spectrogram_settings, settings_record

SETTINGS = default_settings(GrainSettings())


def test_settings_survive_a_round_trip():
    assert parse_spectrogram_settings(settings_record(SETTINGS), "x.json: settings") == SETTINGS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate_hz", 999, ".sample_rate_hz: expected int >= 1000, got 999"),
        ("sample_rate_hz", 44_100.0, ".sample_rate_hz: expected int, got 44100.0"),
        ("sample_rate_hz", 1_000_000, ": n_fft=2048 must be 0.01 to 0.2 s at 1000000 Hz"),
        ("n_fft", 3000, ": n_fft=3000 must be a power of two"),
        ("n_fft", 2**17, ".n_fft: expected int <= 65536, got 131072"),
        ("hop_length", 1024, ": hop_length=1024 must be a quarter or an eighth of n_fft=2048"),
        ("fmin_hz", 251, ".fmin_hz: expected float <= 250.0, got 251"),
        ("fmax_hz", 30_000, ": fmax_hz=30000.0 must be at most half of sample_rate_hz=44100"),
        ("floor_db", 0, ".floor_db: expected float <= -1.0, got 0"),
        ("active_range_db", float("inf"), ".active_range_db: expected float <= 200.0, got inf"),
    ],
)
def test_unusable_grain_settings_are_refused(field, value, message):
    record = settings_record(SETTINGS)
    record["grain"][field] = value
    with pytest.raises(PipelineError) as caught:
        parse_spectrogram_settings(record, "x.pt: settings")
    assert str(caught.value) == f"x.pt: settings.grain{message}"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tile_frames", 128, ": tile_frames=128, this program works with 256"),
        ("dynamic_range_db", "deep", ".dynamic_range_db: expected float, got 'deep'"),
        ("band_edges_hz", [float("nan")] * 130, ".band_edges_hz[0]: expected float >= 0.0, got nan"),
        ("band_edges_hz", [100.0] * 130, ": band_edges_hz must be 130 rising frequencies from fmin_hz to fmax_hz"),
        ("band_edges_hz", [], ": band_edges_hz must be 130 rising frequencies from fmin_hz to fmax_hz"),
        ("grain", None, ".grain: expected object, got null"),
    ],
)
def test_unusable_spectrogram_settings_are_refused(field, value, message):
    with pytest.raises(PipelineError) as caught:
        parse_spectrogram_settings(settings_record(SETTINGS) | {field: value}, "x.pt: settings")
    assert str(caught.value) == f"x.pt: settings{message}"


@pytest.mark.parametrize("name", ["tile_frames", "dynamic_range_db", "band_edges_hz", "grain"])
def test_a_missing_field_is_not_replaced_by_a_default(name):
    record = settings_record(SETTINGS)
    del record[name]
    with pytest.raises(PipelineError, match=f"x.pt: settings: object missing required field {name}"):
        parse_spectrogram_settings(record, "x.pt: settings")


@pytest.mark.parametrize("name", vars(GrainSettings()))
def test_a_missing_grain_field_is_not_replaced_by_a_default(name):
    record = settings_record(SETTINGS)
    del record["grain"][name]
    with pytest.raises(PipelineError, match=f"x.pt: settings.grain: object missing required field {name}"):
        parse_spectrogram_settings(record, "x.pt: settings")


@pytest.mark.parametrize(("low", "high"), [(50.0, 15_000.0), (0.0, 8_000.0), (2_000.0, 20_000.0), (10.0, 900.0)])
def test_the_edges_of_the_bands_are_those_of_librosa(low, high):
    edges = default_settings(GrainSettings(fmin_hz=low, fmax_hz=high)).band_edges_hz
    expected = librosa.mel_frequencies(130, fmin=low, fmax=high)
    np.testing.assert_allclose(edges, expected, atol=0.0006)
    assert low != 50 or list(edges) == [round(float(hz), 3) for hz in expected]


@pytest.mark.parametrize(("sr", "n_fft"), [(102_400, 1_024), (163_840, 32_768)])
def test_windows_of_exactly_10_and_200_ms_are_accepted(sr, n_fft):
    assert GrainSettings(sample_rate_hz=sr, n_fft=n_fft, hop_length=n_fft // 4).n_fft_for(sr) == n_fft


def test_a_rate_must_be_positive():
    with pytest.raises(ValueError, match="sr=0 must be positive"):
        GrainSettings().n_fft_for(0)

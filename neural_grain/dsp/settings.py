"""TODO"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.base.records import parse_record

SAMPLE_RATES_HZ = (1_000, 1_000_000)  # below, the band is empty; above, a window alone fills the memory
WINDOW_S = (0.01, 0.2)  # what a window may last
N_MELS = 128
TILE_FRAMES = 256
DYNAMIC_RANGE_DB = 100.0  # as deep as grain looks (stage 1's floor): what is not in the picture would move unseen
CELL_FRAMES = 32  # 0.37 s: a learned pattern has one value a band for so long, and goes from one to the next in a line
STEP_FRAMES = 4  # 46 ms, a window: gains, which also hold energies, go in a line from one step to the next; 93 ms cost drum loops reach
NEPER_PER_DB = math.log(10) / 10  # of power


@dataclass(frozen=True)
class GrainSettings:
    """How grain is measured; stored beside every number that depends on it.

    ``n_fft`` and ``hop_length`` are for ``sample_rate_hz``; other rates use a power of two
    that keeps the window as long in seconds (`n_fft_for`).
    """

    sample_rate_hz: int = 44_100
    n_fft: int = 2048
    hop_length: int = 512
    fmin_hz: float = 50.0
    fmax_hz: float = 15_000.0  # below every codec's low-pass, so that its empty top does not count
    floor_db: float = -100.0  # under the file's loudest bin: librosa's amin of 1e-10
    active_range_db: float = 40.0  # 60 dB lets decays and room noise decide the mean

    def n_fft_for(self, sr: int) -> int:
        """Window length in samples at ``sr``: the power of two nearest to 46 ms (sr : int > 0)."""
        if sr <= 0:
            raise ValueError(f"sr={sr} must be positive")
        return max(32, 2 ** round(math.log2(self.n_fft * sr / self.sample_rate_hz)))

    def hop_for(self, sr: int) -> int:
        """Hop in samples at ``sr``: the same overlap as at the reference rate."""
        return self.n_fft_for(sr) * self.hop_length // self.n_fft

    def band_for(self, sr: int) -> slice:
        """Bins of the analysis band at ``sr``: ``fmin_hz`` to ``fmax_hz``, or to Nyquist if lower."""
        n_fft = self.n_fft_for(sr)
        low = math.ceil(self.fmin_hz * n_fft / sr)
        high = min(math.floor(self.fmax_hz * n_fft / sr), n_fft // 2)
        return slice(low, high + 1)


@dataclass(frozen=True)
class SpectrogramSettings:
    """How tiles are made: everything that the way forth and the way back must agree on."""

    grain: GrainSettings
    band_edges_hz: tuple[float, ...]  # n_mels + 2 of them: band b is a triangle from edge b to edge b + 2
    dynamic_range_db: float = DYNAMIC_RANGE_DB
    tile_frames: int = TILE_FRAMES

    @property
    def n_mels(self) -> int:
        """Number of mel bands."""
        return len(self.band_edges_hz) - 2


def default_settings(grain: GrainSettings) -> SpectrogramSettings:
    """128 bands spaced evenly on Slaney's mel scale over the analysis band of the grain."""
    from librosa import mel_frequencies

    edges = mel_frequencies(N_MELS + 2, fmin=grain.fmin_hz, fmax=grain.fmax_hz)
    return SpectrogramSettings(grain, tuple(round(float(hz), 3) for hz in edges))


def settings_record(settings: SpectrogramSettings) -> dict:
    """Spectrogram settings as plain scalars, lists and dicts, for JSON and the checkpoint."""
    return {**asdict(settings), "band_edges_hz": list(settings.band_edges_hz)}


def parse_grain_settings(record: object, where: str) -> GrainSettings:
    """Grain settings from JSON, checked to be usable.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is wrong.
    """
    settings = parse_record(GrainSettings, record, where)
    checks = {
        "sample_rate_hz": SAMPLE_RATES_HZ[0] <= settings.sample_rate_hz <= SAMPLE_RATES_HZ[1],
        "n_fft": settings.n_fft in {2**power for power in range(5, 17)}
        and WINDOW_S[0] <= settings.n_fft / settings.sample_rate_hz <= WINDOW_S[1],
        "hop_length": settings.hop_length in (settings.n_fft // 4, settings.n_fft // 8),
        "fmin_hz": 0 <= settings.fmin_hz <= SAMPLE_RATES_HZ[0] / 4,  # so that no rate leaves the band empty
        "fmax_hz": SAMPLE_RATES_HZ[0] / 2 <= settings.fmax_hz <= settings.sample_rate_hz / 2,
        "floor_db": -150 <= settings.floor_db < 0,
        "active_range_db": 0 < settings.active_range_db <= 200,
    }
    for name, is_good in checks.items():
        if not is_good:
            raise PipelineError(f"{where}: field {name} is {short_repr(getattr(settings, name))}, out of range")
    return settings


def parse_spectrogram_settings(record: object, where: str) -> SpectrogramSettings:
    """Spectrogram settings from JSON or a checkpoint, checked to be usable.

    Raises
    ------
    PipelineError
        Naming ``where`` and the field that is wrong.
    """
    if not isinstance(record, dict):
        raise PipelineError(f"{where}: is a {type(record).__name__}, not an object")
    grain = parse_grain_settings(record.get("grain"), f"{where}: grain")
    edges = record.get("band_edges_hz")
    if not isinstance(edges, list) or not all(isinstance(hz, int | float) for hz in edges):
        raise PipelineError(f"{where}: field band_edges_hz is not a list of numbers")
    within = all(grain.fmin_hz - 0.001 <= hz <= grain.fmax_hz + 0.001 for hz in edges)  # NaN is not
    if len(edges) != N_MELS + 2 or not within or np.any(np.diff(edges) <= 0):
        raise PipelineError(
            f"{where}: field band_edges_hz is not {N_MELS + 2} rising frequencies from fmin_hz to fmax_hz"
        )
    range_db, tile_frames = record.get("dynamic_range_db"), record.get("tile_frames")
    if not isinstance(range_db, int | float) or not 0 < range_db <= 200:
        raise PipelineError(f"{where}: field dynamic_range_db is {short_repr(range_db)}, not a number of dB up to 200")
    if tile_frames != TILE_FRAMES:
        raise PipelineError(
            f"{where}: field tile_frames is {short_repr(tile_frames)}, this program works with {TILE_FRAMES}"
        )
    return SpectrogramSettings(grain, tuple(map(float, edges)), float(range_db))

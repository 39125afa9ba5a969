"""Settings that analysis and synthesis must agree on.

A grain value or a picture means nothing without the settings it was made with, so these settings travel with the
results: stage 1 writes `GrainSettings` into metadata.json, stage 2 writes `SpectrogramSettings` into
training_pairs.json, stage 3 copies them into the checkpoint, and stage 4 reads them from there.

The dataclasses check themselves. ``Annotated`` bounds are checked by msgspec when a file is read, and
``__post_init__`` checks how the fields fit together.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.records import parse_record

NEPER_PER_DB = math.log(10) / 10  # natural logarithm of a power ratio of 1 dB
MIN_SAMPLE_RATE_HZ = 1_000  # below this rate the analysis band is nearly empty
MAX_SAMPLE_RATE_HZ = 1_000_000  # above this rate a block of windows would fill the memory
MIN_WINDOW_S = 0.01
MAX_WINDOW_S = 0.2
N_MELS = 128
#: Slaney's mel scale (Auditory Toolbox, 1998): 66.7 Hz for a mel up to 1 kHz, above it 27 mels for a factor of 6.4.
MEL_HZ, KNEE_HZ, LOG_MEL = 200 / 3, 1_000.0, math.log(6.4) / 27
TILE_FRAMES = 256  # 3 s
DYNAMIC_RANGE_DB = 100.0  # equals the floor of the grain, so that everything that counts as grain is in the picture
CELL_FRAMES = 32  # a learned pattern has one value for each band and cell of 0.37 s, interpolated linearly in time
# Gains are computed for every step of 46 ms (one window) and interpolated linearly in between. Steps of 93 ms
# follow the energy of drum loops too slowly, which shortened the range that the slider reaches on them.
STEP_FRAMES = 4


@dataclass(frozen=True)
class GrainSettings:
    """How grain is measured.

    ``n_fft`` and ``hop_length`` hold at ``sample_rate_hz``. Other rates use the power of two whose window is
    nearest to the same duration (`n_fft_for`).
    """

    sample_rate_hz: Annotated[int, Meta(ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ)] = 44_100
    n_fft: Annotated[int, Meta(ge=2**5, le=2**16)] = 2048
    hop_length: Annotated[int, Meta(ge=2**2, le=2**14)] = 512
    #: At most a quarter of the lowest sample rate, so that no rate leaves the band empty.
    fmin_hz: Annotated[float, Meta(ge=0, le=MIN_SAMPLE_RATE_HZ / 4)] = 50.0
    #: Below the low-pass filter of every codec, so that the empty top of a compressed file does not count.
    fmax_hz: Annotated[float, Meta(ge=MIN_SAMPLE_RATE_HZ / 2, le=MAX_SAMPLE_RATE_HZ / 2)] = 15_000.0
    #: Relative to the loudest bin of the file; librosa's ``amin`` of 1e-10.
    floor_db: Annotated[float, Meta(ge=-150, le=-1)] = -100.0
    #: With 60 dB, decays and the noise of the room decide the mean.
    active_range_db: Annotated[float, Meta(gt=0, le=200)] = 40.0

    def __post_init__(self) -> None:
        """Check how the fields fit together."""
        if self.n_fft & (self.n_fft - 1):
            raise ValueError(f"n_fft={self.n_fft} must be a power of two")
        if not MIN_WINDOW_S <= self.n_fft / self.sample_rate_hz <= MAX_WINDOW_S:
            raise ValueError(
                f"n_fft={self.n_fft} must be {MIN_WINDOW_S} to {MAX_WINDOW_S} s at {self.sample_rate_hz} Hz"
            )
        if self.hop_length not in (self.n_fft // 4, self.n_fft // 8):
            raise ValueError(f"hop_length={self.hop_length} must be a quarter or an eighth of n_fft={self.n_fft}")
        if self.fmax_hz > self.sample_rate_hz / 2:
            raise ValueError(f"fmax_hz={self.fmax_hz} must be at most half of sample_rate_hz={self.sample_rate_hz}")

    def n_fft_for(self, sr: int) -> int:
        """Window length in samples at ``sr`` (int > 0): the power of two nearest to 46 ms."""
        if sr <= 0:
            raise ValueError(f"sr={sr} must be positive")
        return max(32, 2 ** round(math.log2(self.n_fft * sr / self.sample_rate_hz)))

    def hop_for(self, sr: int) -> int:
        """Hop length in samples at ``sr``, with the overlap of the reference rate."""
        return self.n_fft_for(sr) * self.hop_length // self.n_fft

    def band_for(self, sr: int) -> slice:
        """Bins of the analysis band at ``sr``: ``fmin_hz`` to ``fmax_hz``, or to Nyquist if that is lower."""
        n_fft = self.n_fft_for(sr)
        low = math.ceil(self.fmin_hz * n_fft / sr)
        high = min(math.floor(self.fmax_hz * n_fft / sr), n_fft // 2)
        return slice(low, high + 1)


@dataclass(frozen=True)
class SpectrogramSettings:
    """How the mel pictures are made, and therefore how a pattern of gains is applied to a sound.

    Mel band b is a triangle from ``band_edges_hz[b]`` to ``band_edges_hz[b + 2]``, so there are n_mels + 2 edges.
    """

    grain: GrainSettings
    band_edges_hz: tuple[Annotated[float, Meta(ge=0, le=MAX_SAMPLE_RATE_HZ)], ...]
    dynamic_range_db: Annotated[float, Meta(gt=0, le=200)] = DYNAMIC_RANGE_DB
    tile_frames: Annotated[int, Meta(ge=1, le=2**31)] = TILE_FRAMES

    def __post_init__(self) -> None:
        """Check how the fields fit together, with room for edges that are rounded to 0.001 Hz."""
        edges, low, high = self.band_edges_hz, self.grain.fmin_hz - 0.001, self.grain.fmax_hz + 0.001
        is_rising = all(a < b for a, b in pairwise(edges))
        if not (len(edges) == N_MELS + 2 and is_rising and low <= edges[0] and edges[-1] <= high):
            raise ValueError(f"band_edges_hz must be {N_MELS + 2} rising frequencies from fmin_hz to fmax_hz")
        if self.tile_frames != TILE_FRAMES:
            raise ValueError(f"tile_frames={self.tile_frames}, this program works with {TILE_FRAMES}")

    @property
    def n_mels(self) -> int:
        """Number of mel bands."""
        return len(self.band_edges_hz) - 2


def default_settings(grain: GrainSettings) -> SpectrogramSettings:
    """128 bands, spaced evenly on Slaney's mel scale over the analysis band of ``grain``."""
    low, high = _hz_to_mel(grain.fmin_hz), _hz_to_mel(grain.fmax_hz)
    edges = (_mel_to_hz(low + (high - low) * i / (N_MELS + 1)) for i in range(N_MELS + 2))
    return SpectrogramSettings(grain, tuple(round(hz, 3) for hz in edges))


def _hz_to_mel(hz: float) -> float:
    """Slaney's mel scale, as in `librosa.hz_to_mel`: linear below 1 kHz, and logarithmic above."""
    return hz / MEL_HZ if hz < KNEE_HZ else KNEE_HZ / MEL_HZ + math.log(hz / KNEE_HZ) / LOG_MEL


def _mel_to_hz(mel: float) -> float:
    return mel * MEL_HZ if mel < KNEE_HZ / MEL_HZ else KNEE_HZ * math.exp(LOG_MEL * (mel - KNEE_HZ / MEL_HZ))


def settings_record(settings: SpectrogramSettings) -> dict:
    """Spectrogram settings as plain scalars, lists and dicts, for JSON and the checkpoint."""
    return {**asdict(settings), "band_edges_hz": list(settings.band_edges_hz)}


def parse_grain_settings(record: object, where: str) -> GrainSettings:
    """Grain settings from a JSON document, checked. ``where`` names the file and the place for errors."""
    settings = parse_record(GrainSettings, record, where)
    _check_complete(GrainSettings, record, where)
    return settings


def parse_spectrogram_settings(record: object, where: str) -> SpectrogramSettings:
    """Spectrogram settings from a JSON document or a checkpoint, checked. ``where`` is for errors."""
    settings = parse_record(SpectrogramSettings, record, where)
    _check_complete(SpectrogramSettings, record, where)
    _check_complete(GrainSettings, record["grain"], f"{where}.grain")
    return settings


def _check_complete(kind: type, record: dict, where: str) -> None:
    """Refuse a record without one of the fields: the default of this program may differ from its writer's."""
    for field in fields(kind):
        if field.name not in record:
            raise PipelineError(f"{where}: object missing required field {field.name}")

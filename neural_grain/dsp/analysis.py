"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from neural_grain.audio.sound import LevelMeter, Sound
from neural_grain.base.files import scratch_array
from neural_grain.dsp.flatness import GrainMeter, band_powers, check_sound
from neural_grain.dsp.mel import mel_filterbank, powers_to_log_mel
from neural_grain.dsp.settings import STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import mean_power, pad_edges, peak_of_frames, starts_abruptly, stft_blocks

ONSET_DB = (3.0, 6.0)  # mean rise of the bands within a window from which a sound begins, perhaps and surely
PROBE_FRAMES = 1536  # active frames the solver looks at: their mean stands for the file's within 0.01 octaves


@dataclass(frozen=True)
class Probe:
    """What the solver looks at: some active frames of a sound.

    ``power`` is (frames, bins of the band), ``index`` the frames' numbers in the padded sound.
    """

    power: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class Analysis:
    """A sound as the renderer sees it: its picture (of the padded sound), its grain, and a probe."""

    sound: Sound
    settings: SpectrogramSettings
    x: np.ndarray  # (n_mels, frames)
    step_db: np.ndarray  # (n_mels, steps), mean band powers, under the loudest
    onset: np.ndarray  # (frames,), 1 where a sound begins inside the frame's window, 0 where nothing new comes
    grain: float
    peak: float  # largest sample, full scale 1.0
    energy: float  # sum of squares of all samples
    probe: Probe
    threads: int = 1


def evenly_spaced(items: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the items, evenly spread."""
    return items[np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)]


class FrameSampler:
    """Keeps every n-th frame of all that go by, n doubled whenever they are too many."""

    def __init__(self) -> None:
        self._step, self._kept, self._index = 1, [], []

    def add(self, P: np.ndarray, first: int) -> None:
        """Take a block of frames (frames, bins), the number of its first one given."""
        for i in range(-first % self._step, len(P), self._step):
            self._kept.append(P[i].copy())  # a view would keep the whole block
            self._index.append(first + i)
        while len(self._kept) > 8 * PROBE_FRAMES:
            self._step *= 2
            chosen = [i for i, number in enumerate(self._index) if number % self._step == 0]
            self._kept, self._index = [self._kept[i] for i in chosen], [self._index[i] for i in chosen]

    def probe(self, active: np.ndarray, lead: int, again: Callable[[], Iterable[tuple[np.ndarray, float]]]) -> Probe:
        """A probe of active frames; if nearly all that were kept are silent the sound is gone through again."""
        wanted = evenly_spaced(np.flatnonzero(active), PROBE_FRAMES)
        at = [i for i, number in enumerate(self._index) if active[number]]
        if len(at) >= min(len(wanted), PROBE_FRAMES // 4):
            at = evenly_spaced(np.array(at), PROBE_FRAMES)
            return Probe(np.stack([self._kept[i] for i in at]), np.array([self._index[i] for i in at]) + lead)
        chosen, first = [], 0
        for P, _ in again():
            chosen.append(P[wanted[(wanted >= first) & (wanted < first + len(P))] - first])
            first += len(P)
        return Probe(np.concatenate(chosen), wanted + lead)


def onsets(x: np.ndarray, dynamic_range_db: float, overlap: int, *, starts_cut: bool = False) -> np.ndarray:
    """Where a sound begins: by how much the bands are louder, in the mean, than in the last window without overlap.

    Parameters
    ----------
    x : np.ndarray, shape (n_mels, frames)
    overlap : int > 0, windows that a sample lies in
    starts_cut : whether the first frame does not come after silence

    Returns
    -------
    np.ndarray, shape (frames,), float32, 0 up to ONSET_DB[0], 1 from ONSET_DB[1]
    """
    mean_db = dynamic_range_db * x.mean(axis=0)
    mean_db = np.append(np.full(overlap, mean_db[0] if starts_cut else 0.0, np.float32), mean_db)
    rise_db = mean_db[overlap:] - mean_db[:-overlap]
    return np.clip((rise_db - ONSET_DB[0]) / (ONSET_DB[1] - ONSET_DB[0]), 0, 1)


def band_and_bin_powers(
    settings: SpectrogramSettings, sr: int
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, float]]:
    """For `stft_blocks`: powers of the mel bands and of the analysis band's bins, and the largest sample."""
    weights, band, hop_length = mel_filterbank(settings, sr).T, settings.grain.band_for(sr), settings.grain.hop_for(sr)
    counts = np.flatnonzero(weights.any(axis=1))  # a narrow band's nearest bin may lie beside the analysis band
    first, end = min(band.start, counts[0]), max(band.stop, counts[-1] + 1)

    def look(windows: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        P = mean_power(D[..., first:end])
        in_band = np.ascontiguousarray(P[:, band.start - first : band.stop - first])
        return P @ weights[first:end], in_band, peak_of_frames(windows, hop_length)

    return look


def bands_and_grain(sound: Sound, settings: SpectrogramSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`band_powers_of` and `grain_per_frame` in one pass over the sound.

    Returns
    -------
    bands : np.ndarray, shape (frames, n_mels), float32
    flatness : np.ndarray, shape (frames,), in (0, 1]
    active : np.ndarray, shape (frames,), bool

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    bands = scratch_array(((sound.n_samples - n_fft) // hop_length + 1, settings.n_mels))
    meter, first = GrainMeter(settings.grain, n_fft), 0
    for some, P, sample_peak in stft_blocks(sound, settings.grain, band_and_bin_powers(settings, sound.sr)):
        bands[first : first + len(some)] = some
        meter.add(P, sample_peak)
        first += len(some)
    return bands, *meter.result(lambda: band_powers(sound, settings.grain))


def analyse(sound: Sound, settings: SpectrogramSettings, threads: int = 1) -> Analysis:
    """Everything that depends on the sound alone, and not on the grain asked for, in one pass over it.

    Raises
    ------
    PipelineError
        If the sound has no grain: too short, silent, not finite.
    """
    check_sound(sound, settings.grain)
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    level = LevelMeter()
    metered = pad_edges(replace(sound, blocks=lambda: level.through(sound.blocks())), n_fft, hop_length)
    look = band_and_bin_powers(settings, sound.sr)
    # Frames that reach into the padding are not measured.
    lead, n_measured = n_fft // hop_length - 1, (sound.n_samples - n_fft) // hop_length + 1
    meter, some, first = GrainMeter(settings.grain, n_fft), FrameSampler(), -lead
    n_frames = (metered.n_samples - n_fft) // hop_length + 1
    x = scratch_array((settings.n_mels, n_frames))  # powers first
    step_db = scratch_array((settings.n_mels, -(-n_frames // STEP_FRAMES)))  # powers first
    for bands, P, sample_peak in stft_blocks(metered, settings.grain, look, threads):
        at = first + lead
        x[:, at : at + len(bands)] = bands.T
        starts = np.arange(0, len(bands), STEP_FRAMES)
        sums = np.add.reduceat(bands, starts, axis=0)
        means = sums / np.diff(np.append(starts, len(bands)))[:, None]
        step_db[:, at // STEP_FRAMES : at // STEP_FRAMES + len(starts)] = means.T
        measured = slice(max(0, -first), max(0, min(len(P), n_measured - first)))
        if len(P[measured]):
            meter.add(P[measured], sample_peak)
            some.add(P[measured], max(0, first))
        first += len(P)
    flatness, active = meter.result(lambda: band_powers(sound, settings.grain, threads))
    powers_to_log_mel(x, settings.dynamic_range_db)
    powers_to_log_mel(step_db, settings.dynamic_range_db)
    step_db -= 1
    step_db *= settings.dynamic_range_db
    return Analysis(
        sound,
        settings,
        x,
        step_db,
        onsets(
            x,
            settings.dynamic_range_db,
            n_fft // hop_length,
            starts_cut=starts_abruptly(next(iter(sound.blocks()))[:n_fft]),
        ),
        float(flatness[active].mean(dtype=np.float64)),
        level.peak,
        level.energy,
        some.probe(active, lead, lambda: band_powers(sound, settings.grain, threads)),
        threads,
    )

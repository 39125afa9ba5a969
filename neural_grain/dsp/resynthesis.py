"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.gains import lerp_weights
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.settings import NEPER_PER_DB, STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import frame_blocks, hann_window, pad_edges

PIECE_STEPS = 1024  # what is worked on at a time where a sound is long


def predict_next_frame(before: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What the next window would hold if nothing began: steady tones go on turning their phase as they did.

    Parameters
    ----------
    before, last : np.ndarray, complex spectra of two windows side by side

    Returns
    -------
    np.ndarray, complex64, of the same shape
    """
    turned = last * np.conj(before)
    return last * turned / np.maximum(np.abs(turned), np.finfo(np.float32).tiny)


def minimum_phase(log_gain: np.ndarray) -> np.ndarray:
    """Phase in radians of the minimum-phase filter of some gains, through the cepstrum; linear in the gains.

    Parameters
    ----------
    log_gain : np.ndarray, shape (rows, n_fft // 2 + 1), natural logarithm of the amplitude

    Returns
    -------
    np.ndarray, the same shape, float32
    """
    from scipy.fft import irfft, rfft

    cepstrum = irfft(log_gain.astype(float), axis=-1)
    half = cepstrum.shape[-1] // 2
    cepstrum[:, 1:half] *= 2
    cepstrum[:, half + 1 :] = 0
    return rfft(cepstrum, axis=-1).imag.astype(np.float32)


def interpolate_gains(gain_db: np.ndarray, times: np.ndarray, to_bins: np.ndarray) -> np.ndarray:
    """Values for the bins at some rising times, (times, bins), between those of the steps in a line.

    Parameters
    ----------
    gain_db : np.ndarray, shape (n_mels, steps)
    times : np.ndarray, in steps
    to_bins : np.ndarray, shape (n_mels, bins)
    """
    before, after, share = lerp_weights(times, gain_db.shape[1])
    first = before[0]
    steps = gain_db[:, first : after[-1] + 1].T @ to_bins
    value = steps[before - first]
    value += share[:, None] * (steps[after - first] - value)
    return value


class SpectralGain:
    """Applies gains to some windows of a sound: complex STFT times gain, inverse by overlap-add.

    The phase stays as it is, but for what is new in windows in which a sound begins: a gain without
    phase spreads a click to both sides, one of minimum phase only to what comes after (its phase is the
    Hilbert transform of its logarithm: Oppenheim and Schafer, "Discrete-Time Signal Processing", 12.2).

    One gain for all channels, so the stereo image stays. Below the analysis band nothing changes:
    sub-bass has no grain that is measured. With gains of 0 dB the output is the input to float
    precision (weighted overlap-add with the Hann window twice: its squares sum to
    3/8 n_fft / hop_length; Griffin and Lim, IEEE TASSP 32(2), 1984).

    Parameters
    ----------
    settings : SpectrogramSettings
    sr : int > 0, Hz
    onset : np.ndarray, shape (frames of the padded sound,), share of the minimum phase, 0 to 1
    """

    def __init__(self, settings: SpectrogramSettings, sr: int, onset: np.ndarray | None = None):
        self.n_fft, self.hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)
        self.overlap = self.n_fft // self.hop_length
        self.onset = onset
        self._window = hann_window(self.n_fft)
        self._to_bins = np.float32(NEPER_PER_DB / 2) * band_interpolation(
            settings, sr
        )  # ln of the factor on the amplitude
        self._to_bins[:, : settings.grain.band_for(sr).start] = 0
        self._to_phase = minimum_phase(self._to_bins)

    def changed(
        self, first: int, windows: np.ndarray, earlier: np.ndarray, start: int, gain_db: np.ndarray, level: float = 1.0
    ) -> np.ndarray:
        """The windows with their gains, overlapped and added.

        Parameters
        ----------
        first : number of the first frame
        windows : np.ndarray, shape (channels, frames, n_fft)
        earlier : np.ndarray, shape (channels, 2 overlap, n_fft), the windows before these
        start, gain_db : number of the first step, and gains in dB from it on, (n_mels, steps)
        level : float, factor on the output

        Returns
        -------
        np.ndarray, shape (channels, (frames + overlap - 1) hop_length), float32
        """
        from scipy.fft import irfft, rfft

        channels, n_frames, hop_length = windows.shape[0], windows.shape[1], self.hop_length
        D = rfft(windows * self._window, axis=-1)
        times = (np.arange(first, first + n_frames) + 0.5) / STEP_FRAMES - start
        begins = np.flatnonzero(self.onset[first : first + n_frames]) if self.onset is not None else np.empty(0, int)
        if len(begins):
            before = np.concatenate((rfft(earlier * self._window, axis=-1), D), axis=1)
            new = D[:, begins] - predict_next_frame(before[:, begins], before[:, begins + self.overlap])
            phase = self.onset[first + begins, None] * interpolate_gains(gain_db, times[begins], self._to_phase)
            D[:, begins] += (np.exp(1j * phase) - 1) * new
        D *= np.exp(interpolate_gains(gain_db, times, self._to_bins))
        frames = irfft(D, self.n_fft, axis=-1)
        frames *= self._window * np.float32(level / (0.375 * self.overlap))  # (channels, frames, n_fft)
        out = np.zeros((channels, (n_frames + self.overlap - 1) * hop_length), np.float32)
        for part in range(self.overlap):
            piece = frames[:, :, part * hop_length : (part + 1) * hop_length]
            out[:, part * hop_length : (part + n_frames) * hop_length] += piece.reshape(channels, -1)
        return out


def render_blocks(
    sound: Sound,
    gains: Callable[[int, int], np.ndarray],
    changer: SpectralGain,
    level: float = 1.0,
    *,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Apply gains to a whole sound, block by block.

    Parameters
    ----------
    gains : gives the gains in dB, (n_mels, steps), of the steps from one number to before another
    changer : FrameChanger
    level : float, factor on the output

    Yields
    ------
    np.ndarray, shape (samples, channels), float32, ``sound.n_samples`` in all
    """
    n_fft, hop_length, overlap = changer.n_fft, changer.hop_length, changer.overlap
    whole = pad_edges(sound, n_fft, hop_length)

    def blocks() -> Iterator[tuple[int, np.ndarray, np.ndarray, int, np.ndarray]]:
        first, earlier = 0, np.zeros((sound.channels, 2 * overlap, n_fft), np.float32)
        start, known = 0, np.empty((0, 0), np.float32)
        for windows in frame_blocks(whole.blocks(), n_fft, hop_length):
            if (first + windows.shape[1]) // STEP_FRAMES + 1 > start + known.shape[1]:
                start = max(0, first // STEP_FRAMES - 1)
                known = gains(start, start + PIECE_STEPS)
            yield first, windows, earlier, start, known
            first += windows.shape[1]
            earlier = np.concatenate((earlier, windows[:, -2 * overlap :]), axis=1)[:, -2 * overlap :]

    tail = np.zeros((sound.channels, n_fft - hop_length), np.float32)
    skip, left = n_fft - hop_length, sound.n_samples
    for out in map_in_order(lambda block: changer.changed(*block, level), blocks(), threads):
        out[:, : tail.shape[1]] += tail
        n_done = out.shape[1] - tail.shape[1]
        done, tail = out[:, :n_done], out[:, n_done:]
        ready = np.ascontiguousarray(done[:, skip : skip + left].T)
        skip, left = max(0, skip - n_done), left - len(ready)
        if len(ready):
            yield ready

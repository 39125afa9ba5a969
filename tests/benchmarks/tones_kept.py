"""How well tones are kept: by how much the slider moves partials against each other, and the texture between them.

    python tests/benchmarks/tones_kept.py [--model PATH] [--pads NAMES] [--seed N]

Pads are synthesised from known partials and known noise, with 6 dB of headroom, and moved by -3, -1.5, +1.5 and +3.
Columns: the octaves achieved; "move", the 95th percentile over the partials of how far each moves from the median of
all; "between", the change of the level between the partials relative to that median; the amount of the texture in dB and
of the expander; and by how much the limiter reduced the highest peak.

A partial counts if no other is near and if it lies 20 dB above the noise in its surroundings, also where that is raised
by the amount of the texture. Its level is that of the sound demodulated by its own phase, so a vibrato does not matter.
Between the partials lie the bins of an STFT of 186 ms that are 5 bins or more away from each of them; their level is the
mean of their decibels.

A row is wrong (marked with what is wrong) if partials move by more than 1 dB although the texture alone moves, if the
level between them rises by less than 3 dB at -1.5 or falls by less than 3 dB at +1.5 where the pad has noise, or if the
limiter works. Without --model the built-in pattern is used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.signal import butter as butterworth
from scipy.signal import lfilter, sosfilt

from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.move import Rendering, move_grain
from neural_grain.dsp.solver import AmountSolver

SR = 44_100
DURATION_S = 6.0
POSITIONS = (-3.0, -1.5, 1.5, 3.0)
PEAK = 0.5  # 6 dB of headroom
N_FFT = 8_192
HOP_LENGTH = 4_096
MIN_DISTANCE_HZ = 25.0  # between partials that are told apart by a window of 186 ms
CLEAR_BINS = 5
MIN_ABOVE_NOISE_DB = 20.0
MAX_MOVE_DB = 1.0
MIN_BETWEEN_DB = 3.0
CHORD_HZ = (110.0, 164.81, 220.5, 277.18)

T = np.arange(round(DURATION_S * SR)) / SR


class Partial(NamedTuple):
    """One partial: its phase in cycles and its amplitude, shape (n_samples,) each."""

    phase: np.ndarray
    amplitude: np.ndarray


@dataclass(frozen=True)
class Pad:
    """A sound of known partials and noise."""

    partials: list[Partial]
    noise: np.ndarray
    is_noisy: bool  # whether its noise is meant to be heard
    bits: int | None = None  # of the integers to which it is rounded

    @property
    def scale(self) -> float:
        """Factor that gives the sound its peak."""
        return PEAK / np.abs(self.tones + self.noise).max()

    @property
    def tones(self) -> np.ndarray:
        """The sum of the partials."""
        return sum(a * np.sin(2 * np.pi * phase) for phase, a in self.partials)

    def samples(self) -> np.ndarray:
        """The sound, shape (n_samples,)."""
        y = self.scale * (self.tones + self.noise)
        return np.round(y * 2 ** (self.bits - 1)) / 2 ** (self.bits - 1) if self.bits else y


def steady(
    notes_hz: tuple[float, ...], slope: float, rng: np.random.Generator, envelope: np.ndarray | float = 1.0
) -> list[Partial]:
    """Harmonic partials up to 12 kHz that fall by k**-slope."""
    return [
        Partial(hz * k * T + rng.random(), envelope * k**-slope * np.ones_like(T))
        for hz in notes_hz
        for k in range(1, int(12_000 / hz))
    ]


def white(level: float, rng: np.random.Generator) -> np.ndarray:
    """White noise."""
    return level * rng.standard_normal(len(T))


def vibrato(hz: float, depth: float, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Phase in cycles of a note with a vibrato."""
    return np.cumsum(hz * (1 + depth * np.sin(2 * np.pi * (rate_hz * T + rng.random())))) / SR


SWELL = np.minimum(1, np.minimum(T / 0.8, (T[-1] - T) / 0.8))  # soft attack and release


def clean(rng: np.random.Generator) -> Pad:
    """A synthesised chord without any noise."""
    return Pad(steady(CHORD_HZ, 1.2, rng, SWELL), 0 * T, is_noisy=False)


def clean_16_bit(rng: np.random.Generator) -> Pad:
    """The same with 16 bits."""
    return Pad(steady(CHORD_HZ, 1.2, rng, SWELL), 0 * T, is_noisy=False, bits=16)


def abrupt(rng: np.random.Generator) -> Pad:
    """A loop of the same chord: it starts and ends in the middle of waves."""
    return Pad(steady(CHORD_HZ, 1.2, rng), white(1e-3, rng), is_noisy=True)


def room(rng: np.random.Generator) -> Pad:
    """The same with the noise of a room, which falls towards the treble."""
    return Pad(steady(CHORD_HZ, 1.2, rng, SWELL), lfilter([1], [1, -0.9], white(2e-3, rng)), is_noisy=True)


def breath(rng: np.random.Generator) -> Pad:
    """A dark chord with breath above 3 kHz."""
    high = sosfilt(butterworth(4, 3_000, "highpass", fs=SR, output="sos"), white(0.02, rng))
    return Pad(steady(CHORD_HZ, 1.8, rng, SWELL), high * SWELL, is_noisy=True)


def organ(rng: np.random.Generator) -> Pad:
    """Drawbars with a vibrato of 6 Hz, and the wind."""
    partials = []
    for hz in CHORD_HZ:
        phase = vibrato(hz, 0.006, 6.0, rng)
        partials += [Partial(k * phase, np.full_like(T, 1 / k**0.5)) for k in (1, 2, 3, 4, 6, 8, 10, 12, 16)]
    return Pad([Partial(p.phase, p.amplitude * SWELL) for p in partials], white(4e-3, rng), is_noisy=True)


def plucked(rng: np.random.Generator) -> Pad:
    """Strings plucked one after the other, high partials decaying first, with a little noise of fingers and room."""
    partials, noise = [], white(3e-4, rng)
    for i, hz in enumerate((*CHORD_HZ, 330.0)):
        t = T - 0.05 - 0.5 * i
        for k in range(1, min(40, int(10_000 / hz))):
            amplitude = np.where(t > 0, k**-1.0 * np.exp(-np.maximum(t, 0) * (0.4 + 0.15 * k)), 0)
            stretched = hz * k * np.sqrt(1 + 5e-5 * k * k)
            partials.append(Partial(stretched * T + rng.random(), amplitude * np.clip(t / 0.002, 0, 1)))
        noise += white(0.1, rng) * np.where(t > 0, np.exp(-np.maximum(t, 0) / 0.01), 0)
    return Pad(partials, noise, is_noisy=True)


def bells(rng: np.random.Generator) -> Pad:
    """Inharmonic bells (the partials of Risset's), three strokes, and a faint hiss."""
    ratios = (0.56, 0.563, 0.92, 0.923, 1.19, 1.7, 2.0, 2.74, 3.0, 3.76, 4.07)
    levels = (1.0, 0.67, 1.0, 1.8, 2.67, 1.67, 1.46, 1.33, 1.33, 1.0, 1.33)
    decays_s = (4.0, 3.6, 2.6, 2.2, 1.3, 1.4, 1.0, 0.8, 0.6, 0.4, 0.3)
    partials = []
    for start_s, hz in ((0.1, 420.0), (1.9, 560.0), (3.5, 747.0)):
        t = np.maximum(T - start_s, 0)
        for ratio, level, decay_s in zip(ratios, levels, decays_s, strict=True):
            amplitude = level * np.exp(-3 * t / decay_s) * np.clip(t / 0.003, 0, 1)
            partials.append(Partial(ratio * hz * T + rng.random(), amplitude))
    return Pad(partials, white(2e-3, rng), is_noisy=True)


def vowel(rng: np.random.Generator) -> Pad:
    """A sung "ah": harmonics under formants, vibrato, drift of the pitch, and breath with the same formants."""
    drift = lfilter([1e-3], [1, -0.9999], rng.standard_normal(len(T))) * 0.02
    phase = np.cumsum(196 * (1 + 0.01 * np.sin(2 * np.pi * 5.3 * T) + 0.01 * drift)) / SR
    formants = ((700, 110), (1_150, 130), (2_600, 170), (3_300, 220), (4_000, 300))

    def gain(hz: np.ndarray | float) -> np.ndarray | float:
        return sum(10 ** (-i / 4) / (1 + ((hz - f) / bandwidth) ** 2) for i, (f, bandwidth) in enumerate(formants))

    partials = [Partial(k * phase, SWELL * k**-0.5 * (gain(196 * k) + 3e-3)) for k in range(1, 50)]
    spectrum = np.fft.rfft(white(1.0, rng))
    breath = np.fft.irfft(spectrum * (gain(np.fft.rfftfreq(len(T), 1 / SR)) + 0.02), len(T))
    return Pad(partials, 0.02 * SWELL * breath, is_noisy=True)


PADS: dict[str, Callable[[np.random.Generator], Pad]] = {
    function.__name__: function
    for function in (clean, clean_16_bit, abrupt, room, breath, organ, plucked, bells, vowel)
}


def windows_of(y: np.ndarray) -> np.ndarray:
    """Windows of samples (n_samples,): (frames, N_FFT)."""
    return np.lib.stride_tricks.sliding_window_view(y, N_FFT)[::HOP_LENGTH]


class Ruler:
    """Measures the levels of a pad's partials and of what lies between them, in any rendering of it."""

    def __init__(self, pad: Pad):
        self._pad = pad
        self._hann = np.hanning(N_FFT + 1)[:-1]
        hz = np.stack([windows_of(np.gradient(partial.phase) * SR).mean(axis=1) for partial in pad.partials])
        spread = np.stack([np.ptp(windows_of(np.gradient(partial.phase) * SR), axis=1) / 2 for partial in pad.partials])
        bins_hz = np.fft.rfftfreq(N_FFT, 1 / SR)
        self._is_between = np.broadcast_to((bins_hz > 100) & (bins_hz < 12_000), (hz.shape[1], len(bins_hz))).copy()
        for centre, width in zip(hz, spread, strict=True):
            self._is_between &= np.abs(bins_hz - centre[:, None]) > CLEAR_BINS * SR / N_FFT + width[:, None]
        tones, noise = pad.scale * pad.tones, pad.scale * pad.noise
        if pad.bits:
            noise = pad.samples() - tones
        middle_hz = np.median(hz, axis=1)
        distance = np.abs(middle_hz - middle_hz[:, None]) + np.where(np.eye(len(middle_hz)), np.inf, 0)
        above_db = self.partials_db(tones) - self.partials_db(noise)
        self._above_db = np.where(distance.min(axis=1) > MIN_DISTANCE_HZ, above_db, -np.inf)

    def counts(self, texture_db: float) -> np.ndarray:
        """Which partials count where noise is raised by so much."""
        return self._above_db > MIN_ABOVE_NOISE_DB + max(texture_db, 0)

    def partials_db(self, y: np.ndarray) -> np.ndarray:
        """Level of each partial, over the time in which it is loud."""
        levels = []
        for phase, amplitude in self._pad.partials:
            sums = windows_of(y * np.exp(-2j * np.pi * phase)) @ self._hann
            weight = windows_of(amplitude) @ self._hann
            levels.append(np.square(np.abs(sums))[weight > 0.1 * weight.max()].sum())
        return 10 * np.log10(np.array(levels) + 1e-20)

    def between_db(self, y: np.ndarray) -> float:
        """Level between the partials."""
        P = np.square(np.abs(np.fft.rfft(windows_of(y) * self._hann, axis=1)))
        return float(10 * np.log10(P[self._is_between] + 1e-20).mean())


def wrong(pad: Pad, octaves: float, rendering: Rendering, move_db: float, between_db: float) -> str:
    """What is wrong with a rendering."""
    notes = []
    if rendering.amounts.expander == 0 and move_db > MAX_MOVE_DB:
        notes.append("partials move")
    if pad.is_noisy and abs(octaves) == 1.5 and -np.sign(octaves) * between_db < MIN_BETWEEN_DB:
        notes.append("little between")
    if rendering.limited_db > 0:
        notes.append("limited")
    return ", ".join(notes)


def print_pad(name: str, pad: Pad, solver: AmountSolver) -> list[str]:
    """Print the rows of one pad, and return what is wrong with them."""
    ruler, y, faults = Ruler(pad), pad.samples(), []
    before_db, between_before_db = ruler.partials_db(y), ruler.between_db(y)
    for octaves in POSITIONS:
        rendering = move_grain(solver, octaves)
        z = np.concatenate(list(rendering.sound.blocks()))[:, 0].astype(float)
        counts = ruler.counts(rendering.amounts.texture_db)
        change_db = (ruler.partials_db(z) - before_db)[counts]
        common_db = float(np.median(change_db))
        move_db = float(np.percentile(np.abs(change_db - common_db), 95))
        between_db = ruler.between_db(z) - between_before_db - common_db
        note = wrong(pad, octaves, rendering, move_db, between_db)
        faults += [note] if note else []
        print(
            f"{name:14s} {counts.sum():3d} {octaves:+5.1f} {rendering.achieved_octaves:+6.2f} {move_db:6.2f}"
            f" {between_db:+8.1f} {rendering.amounts.texture_db:+8.1f} {rendering.amounts.expander:+9.3f}"
            f" {rendering.limited_db:8.1f}  {note}",
            flush=True,
        )
    return faults


def main(argv: list[str] | None = None) -> int:
    """Print the table, and return how many rows are wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained model; the built-in pattern without it")
    parser.add_argument("--pads", default=",".join(PADS), help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    processor = GrainProcessor.load(args.model, "cpu")
    print("pad            partials ask   done   move  between  texture  expander  limited  wrong")
    faults = []
    for name in args.pads.split(","):
        pad = PADS[name](np.random.default_rng(args.seed))
        faults += print_pad(name, pad, processor.solver(sound_from_array(pad.samples().astype(np.float32), SR)))
    print(f"{len(faults)} of {len(POSITIONS) * len(args.pads.split(','))} rows are wrong")
    return len(faults)


if __name__ == "__main__":
    main()

"""A sound as three layers whose sum is the sound: tones + transients + noise.

The layers follow Verma and Meng ("Extending spectral modeling synthesis with transient modeling synthesis", Computer
Music Journal 24(2), 2000). Transients and noise together are the texture, which the slider moves.

Noise is told from tones by a mask on a long STFT (`masking`). Partials that a vibrato moves on within the long window
are taken out of what remains with a shorter one.

A long window spreads a click over its whole length: the share of the click that falls on bins of tones is then missing
from the texture and lies before the click as a pre-echo. So the moments at which the texture is much louder than around
them, which are the transients, are taken out of the sound, twice, and what is left is split again. Then no hit disturbs
the mask, which may look farther in time for weak partials.

In: a `Sound`. Out: `Layers`, three arrays of shape (samples, channels), float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import Sound, interleave
from neural_grain.base.files import release_pages, scratch_array
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.linear_prediction import continue_edge
from neural_grain.dsp.masking import LONG, SHORT, TextureFilter, Threshold, join_points
from neural_grain.dsp.settings import GrainSettings


@dataclass(frozen=True)
class LayerSettings:
    """How a sound is split."""

    gate_hops: int = 512  # in a long window: 0.4 ms each; a power of two, so that pieces of a sound begin with a hop
    gate_group: int = 16  # hops: the surroundings of a moment are compared in steps of 6 ms
    transient_percentile: float = 20.0  # of the energy around in time, which is that between hits
    transient_min_db: float = 7.0  # above that; noise fluctuates by less
    transient_full_db: float = 10.0
    spread_ratio: float = 1e-3  # of the power of a transient: what the long window spreads around it is no transient
    before_ratio: float = 0.05  # the same just before a transient, where the window spreads most of it
    before_hops: int = 32  # that count as just before: 12 ms
    spread_hops: int = (
        128  # before a transient, 46 ms, in which what the window spreads of it is taken out of the noise
    )
    max_density: float = 0.03  # of transients in the time of a long window, above which hits follow each other closely
    transient_passes: int = 2  # each leaves a thirtieth of the click that it found in the tones
    bound_hops: int = 1024  # in a long window
    bound_window: int = 24  # hops, 4 ms: longer than the period of most tones
    #: Power of the texture to that of the sound, beyond which tones would cancel texture; and of the noise before a
    #: transient to its median.
    max_excess: float = 2.0
    window_orders: int = 16  # order of the prediction beyond the edges, 512: with 256, low chords still click there
    chunk_windows: int = 128  # long ones, split at a time: 24 s


LAYERS = LayerSettings()
#: While transients are looked for, nothing of theirs may count as a tone.
HIT_THRESHOLD = Threshold(3.5)
#: Without them. At the threshold above, weak partials would be noise.
STEADY_THRESHOLD = Threshold(2.2, mean_frames=9)
#: Of the short windows.
VIBRATO_THRESHOLD = Threshold(8.0)


@dataclass(frozen=True)
class Layers:
    """The layers of a sound, shape (n_samples, channels) each, whose sum is the sound."""

    tones: np.ndarray
    transients: np.ndarray
    noise: np.ndarray

    def texture(self, start: int, stop: int) -> np.ndarray:
        """The texture of the samples from ``start`` to ``stop``, shape (samples, channels)."""
        return self.transients[start:stop] + self.noise[start:stop]

    def release_pages(self) -> None:
        """Give back the memory of what was read or written; to be called from time to time in a long sound."""
        release_pages(self.tones, self.transients, self.noise)


def crest_factor_db(y: np.ndarray) -> float:
    """Peak over RMS of samples (n, channels), of all channels together, in dB; 0 if they are silent."""
    power = np.square(y, dtype=float)
    mean = power.mean()
    return float(10 * np.log10(max(power.max() / mean, 1))) if mean > 0 else 0.0


class Texture(NamedTuple):
    """The texture of a piece of a sound, shape (channels, samples) each."""

    transients: np.ndarray
    noise: np.ndarray


class Chunk(NamedTuple):
    """A piece of a sound with some samples more on both sides."""

    start: int
    lead: int  # samples before ``start``
    y: np.ndarray  # (channels, samples)


def split_layers(sound: Sound, settings: GrainSettings, threads: int = 1) -> Layers:
    """Split a sound into its layers, piece by piece."""
    n_fft = LONG.windows * settings.n_fft_for(sound.sr)
    margin = 6 * n_fft  # a pass reaches less than three windows far, and the second one depends on the first
    layers = Layers(*(scratch_array((sound.n_samples, sound.channels)) for _ in range(3)))

    def split(chunk: Chunk) -> tuple[Chunk, Texture]:
        return chunk, split_texture(chunk.y, n_fft, sound.sr)

    chunks = _chunks(sound, LAYERS.chunk_windows * n_fft, margin, n_fft // LAYERS.window_orders)
    for (start, lead, y), texture in map_in_order(split, chunks, threads):
        stop = min(start + LAYERS.chunk_windows * n_fft, sound.n_samples)
        y, transients, noise = (x[:, lead : lead + stop - start] for x in (y, *texture))
        interleave(y - transients - noise, out=layers.tones[start:stop])
        interleave(transients, out=layers.transients[start:stop])
        interleave(noise, out=layers.noise[start:stop])
        layers.release_pages()
    return layers


def _chunks(sound: Sound, n_samples: int, margin: int, order: int) -> Iterator[Chunk]:
    """Cut a sound into pieces of ``n_samples`` with ``margin`` more on both sides.

    Beyond its ends the sound is continued for half of that, which is as far as the mask of a sample reaches.
    """
    lead = n = margin // 2
    held, start, n_read = np.zeros((n, sound.channels), np.float32), 0, 0
    is_first = True
    for block in sound.blocks():
        held = np.concatenate((held, block))
        n_read += len(block)
        if is_first and n_read >= min(n + order, sound.n_samples):
            held[:n] = continue_edge(held[n : 2 * n + order], n, order)[::-1]
            is_first = False
        while len(held) >= lead + n_samples + margin and n_read < sound.n_samples:
            yield Chunk(start, lead, np.ascontiguousarray(held[: lead + n_samples + margin].T))
            start, next_lead = start + n_samples, min(margin, n + start + n_samples)
            held, lead = held[lead + n_samples - next_lead :], next_lead
    held = np.concatenate((held, continue_edge(held[::-1][: min(n_read, n + order)], n, order)))
    while start < sound.n_samples:
        yield Chunk(start, lead, np.ascontiguousarray(held[: lead + n_samples + margin].T))
        start, next_lead = start + n_samples, min(margin, n + start + n_samples)
        held, lead = held[lead + n_samples - next_lead :], next_lead


def split_texture(y: np.ndarray, n_fft: int, sr: int) -> Texture:
    """The texture of a piece of a sound; what it leaves of the piece are the tones.

    Parameters
    ----------
    y : np.ndarray, shape (channels, samples), float32
    n_fft : int > 0, long window in samples
    sr : int > 0, Hz
    """
    long = TextureFilter(y.shape, n_fft, sr, LONG)
    transients, gate, changed = np.zeros_like(y), np.zeros(y.shape[1], np.float32), None
    for _ in range(LAYERS.transient_passes):
        texture = long.apply(y - transients, HIT_THRESHOLD, changed) + transients
        was_open, gate = gate > 0, transient_gate(texture, n_fft)
        transients, changed = gate * texture, was_open | (gate > 0)
        if not gate.any():
            break
    noise = long.apply(y - transients, STEADY_THRESHOLD, changed)
    short = TextureFilter(y.shape, n_fft // LONG.windows * SHORT.windows, sr, SHORT)
    noise = short.apply(noise, VIBRATO_THRESHOLD)
    if gate.any():
        noise *= _share_before_transients(noise, gate, n_fft)
    share = _possible_share(y, transients + noise, n_fft)
    return Texture(transients * share, noise * share)


def transient_gate(x: np.ndarray, n_fft: int) -> np.ndarray:
    """Where a texture is much louder than around: 1 in transients, 0 elsewhere, with short slopes.

    The differences between samples are compared, in which the deep noise of a room does not hide a click. What a long
    window spreads around a transient must not count as one, so only what is nearly as loud does.

    Parameters
    ----------
    x : np.ndarray, shape (channels, samples), texture
    n_fft : int > 0, long window in samples

    Returns
    -------
    np.ndarray, shape (samples,), float32, in [0, 1], the same for all channels
    """
    from scipy.ndimage import maximum_filter1d, percentile_filter, uniform_filter1d

    hop, n = max(1, n_fft // LAYERS.gate_hops), LAYERS.gate_group
    energy = _hop_energy(np.diff(x, prepend=x[:, :1]), hop)
    energy = np.pad(energy, ((0, 0), (0, -energy.shape[1] % n)), mode="edge")
    groups = energy.reshape(len(x), -1, n)
    span = n_fft // (hop * n)
    quiet = percentile_filter(groups.mean(axis=2), LAYERS.transient_percentile, (1, 2 * span | 1), mode="nearest")
    spread = LAYERS.spread_ratio * maximum_filter1d(groups.max(axis=2), span | 1, mode="nearest")
    energy = uniform_filter1d(energy, 3, mode="nearest")
    ahead = maximum_filter1d(energy, LAYERS.before_hops, origin=-(LAYERS.before_hops // 2), mode="nearest")
    reference = np.maximum(np.repeat(np.maximum(quiet, spread), n, axis=1), LAYERS.before_ratio * ahead)
    reference = np.maximum(reference, np.finfo(np.float32).tiny)
    ratio = (energy / reference).max(axis=0)
    low, high = LAYERS.transient_min_db, LAYERS.transient_full_db
    gate = np.clip((10 * np.log10(np.maximum(ratio, 1e-9)) - low) / (high - low), 0, 1)
    gate = maximum_filter1d(gate, n, origin=n // 2 - 1)  # stays open for a moment after, but opens no earlier
    return _at_samples(gate[None], hop, x.shape[1])[0]


def _share_before_transients(noise: np.ndarray, gate: np.ndarray, n_fft: int) -> np.ndarray:
    """Factor, shape (channels, samples), that keeps the noise just before a transient as quiet as it is around.

    What is louder there was spread by the long window. It stays with the tones, where it makes up the sound as it was;
    moved with the noise, it would be heard before the hit. Where hits follow each other closely, as in crackle, what
    lies before one belongs to others and is left alone.
    """
    from scipy.ndimage import maximum_filter1d, percentile_filter, uniform_filter1d

    hop, n = max(1, n_fft // LAYERS.gate_hops), LAYERS.gate_group
    energy = _hop_energy(noise, hop)
    n_hops = energy.shape[1]
    groups = np.pad(energy, ((0, 0), (0, -n_hops % n)), mode="edge").reshape(len(noise), -1, n).mean(axis=2)
    span = n_fft // (hop * n)
    # Of the time before alone, because after a hit its decay is loud.
    quiet = percentile_filter(groups, 50, (1, 2 * span + 1), mode="nearest", origin=(0, span))
    quiet = np.repeat(quiet, n, axis=1)[:, :n_hops]
    energy = np.maximum(uniform_filter1d(energy, n, mode="nearest"), np.finfo(np.float32).tiny)
    share = np.sqrt(np.minimum(1, LAYERS.max_excess * quiet / energy))
    is_open = gate[hop // 2 :: hop]
    is_open = np.pad(is_open, (0, n_hops - len(is_open)), mode="edge") > 0
    reach = LAYERS.spread_hops
    is_before = maximum_filter1d(is_open, reach, origin=-(reach // 2 - 1)) & ~is_open
    density = uniform_filter1d(is_open.astype(float), LAYERS.gate_hops, origin=LAYERS.gate_hops // 2 - 1)  # of the past
    share[:, ~is_before | (density > LAYERS.max_density)] = 1
    return _at_samples(share, hop, noise.shape[1])


def _possible_share(y: np.ndarray, texture: np.ndarray, n_fft: int) -> np.ndarray:
    """Factor, shape (channels, samples), that keeps the texture from being louder than the sound is at any moment.

    Before the start of a tone the long window leaves a part of it in the tones and the opposite in the texture, which
    is heard when only one of them is moved. The energies before and after each moment are compared, and not those
    around it, so that a start does not hide what lies just before it.
    """
    hop, n = max(1, n_fft // LAYERS.bound_hops), LAYERS.bound_window
    energy, of_texture = (np.cumsum(np.pad(_hop_energy(x, hop), ((0, 0), (n, n))), axis=1) for x in (y, texture))

    def ratio(first: int) -> np.ndarray:
        stop = first + energy.shape[1] - 2 * n
        sums = [
            np.maximum(x[:, first + n - 1 : stop + n - 1] - (x[:, first - 1 : stop - 1] if first else 0), 0)
            for x in (energy, of_texture)
        ]
        return sums[0] / np.maximum(sums[1], np.finfo(np.float32).tiny)

    share = np.sqrt(np.minimum(LAYERS.max_excess * np.minimum(ratio(1), ratio(n)), 1)).astype(np.float32)
    share = np.pad(share, ((0, 0), (1, 1)), "edge")
    # Interpolated between the edges of hops, so that the whole of a hop with a click keeps its share.
    return join_points(np.maximum(share[:, :-1], share[:, 1:]), hop)[:, : y.shape[1]]


def _hop_energy(x: np.ndarray, hop: int) -> np.ndarray:
    """Mean square of each hop of samples (channels, n): (channels, hops), float64."""
    n = x.shape[1] // hop * hop
    hops = x[:, :n].reshape(len(x), -1, hop)
    energy = np.einsum("cht,cht->ch", hops, hops)
    if n < x.shape[1]:
        energy = np.append(energy, np.square(x[:, n:]).sum(axis=1, keepdims=True), axis=1)
    return energy.astype(float) / hop


def _at_samples(values: np.ndarray, hop: int, n: int) -> np.ndarray:
    """Interpolate values (rows, hops) at the middles of hops to ``n`` samples."""
    padded = np.pad(values.astype(np.float32), ((0, 0), (1, 1)), "edge")
    return join_points(padded, hop)[:, hop // 2 : hop // 2 + n]

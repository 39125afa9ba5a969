"""Makes the samples that are played: the sound before, after, the difference, or a layer, without a click at any change.

The sound "after" and its tones are rendered a little ahead of the playhead (`Mixer.prepare`) by the path that also
renders files, with the same gains, level, mix and limiter, and are played from there (`Mixer.fill`). Every change, such
as another amount, mix, model or version, a seek, the end of a loop, a start or a pause, is a linear cross-fade of a few
milliseconds between what would have been played without the change and what is played from now on. The volume moves as
slowly.

In: samples of shape (n_samples, channels), an `AmountSolver` of the same sound, and amounts. Out: blocks of samples of
shape (n, channels). The module knows nothing of windows, audio devices or clocks.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from neural_grain.audio.limiter import CEILING
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.reach import NO_CHANGE
from neural_grain.dsp.solver import AmountSolver
from neural_grain.session.meter import OutputMeter, to_outputs

VERSIONS = ("before", "after", "difference", "tones", "texture")  # the last two are layers of the sound "after"


@dataclass(frozen=True)
class MixerSettings:
    """Times of the mixer."""

    fade_s: float = 0.006  # short enough to feel immediate, long enough to avoid a click
    ahead_s: float = 0.3  # rendered ahead of the playhead, so that a slow rendering does not interrupt the sound
    piece_s: float = 0.05  # unit of what is kept of the rendered sound
    pieces_at_once: int = 3  # fewer would be heard sooner, but cost more each and could end before the next are ready


MIXER = MixerSettings()


@dataclass(frozen=True)
class After:
    """What the sound "after" is rendered from."""

    field: GainField
    amounts: Amounts | AmountCurve
    mix: Mix

    @classmethod
    def of(cls, field: GainField, amounts: Amounts | AmountCurve | None, mix: Mix) -> After | None:
        """That of some amounts, None for no change; returns None if it is the sound before."""
        if amounts is None or mix.wet == 0:
            amounts, mix = NO_CHANGE.amounts, replace(mix, wet=0.0)
        return None if mix.wet == 0 and mix.gain_db == 0 else cls(field, amounts, mix)

    def render(self, start: int, stop: int, ceiling: float) -> np.ndarray:
        """Samples with their tones in further channels, shape (stop - start, 2 channels)."""
        return self.field.render_part(self.amounts, start, stop, ceiling, mix=self.mix, with_tones=True)


@dataclass(frozen=True)
class Source:
    """What is played: a version, and how the sound "after" is rendered."""

    version: str
    after: After | None  # None if that is the sound before

    @property
    def amounts(self) -> Amounts | AmountCurve | None:
        """Those of the sound "after"; None for no change."""
        return None if self.after is None else self.after.amounts

    @property
    def is_rendered(self) -> bool:
        """True if it needs rendered samples."""
        return self.version != "before" and self.after is not None


class Mixer:
    """Plays one sound at the amounts, with the mix, the model and in the version that were set last.

    Three threads use a mixer: the caller, such as the window, sets what is wanted; the rendering thread calls
    `prepare`; the audio callback calls `fill`. One lock guards all state. Nobody renders, waits or calls foreign code
    while holding it, so the callback gets it within microseconds. What is rendered depends only on `After` and the place
    in the sound, which are the key under which `prepare` keeps it, so it is right whatever the others did meanwhile.

    While nothing plays, ``source`` is None and a seek moves the playhead at once. A source is played only while the
    fade after it is rendered as well, so every change can fade from what it replaces.

    Parameters
    ----------
    y : np.ndarray, shape (n_samples, channels), float32, the sound before
    sr : int > 0, Hz
    solver : AmountSolver of the same sound

    Attributes
    ----------
    position : int, the playhead in samples
    source : Source or None, what the last block was made of; None for silence
    meter : OutputMeter, of what the sound card gets
    underruns : int, how often the sound was interrupted because nothing was rendered in time
    volume : float, factor on the output
    changed : threading.Event, set when there is something new to prepare
    """

    def __init__(self, y: np.ndarray, sr: int, solver: AmountSolver):
        self.y, self.sr, self._field = y, sr, solver.field
        self._tones = solver.analysis.layers.tones  # of the sound before
        self.position = 0
        self.underruns = 0
        self.meter = OutputMeter(sr)
        self.volume = 1.0
        self.source: Source | None = None
        self.changed = threading.Event()
        self.fade_samples = max(1, round(MIXER.fade_s * sr))
        self._ahead_samples = round(MIXER.ahead_s * sr)
        self._piece_samples = max(1, round(MIXER.piece_s * sr))
        self._ceiling = max(CEILING, solver.analysis.peak)
        self._lock = threading.Lock()
        self._version = "after"
        self._amounts: Amounts | AmountCurve | None = None
        self._mix = NO_MIX
        self._loop: tuple[int, int] | None = None
        self._is_playing = False
        self._seek_target: int | None = None  # the playhead moves there as soon as the sound is rendered there
        # The sound "after" and its tones in further channels, by the number of the piece.
        self._pieces: dict[tuple[After, int], np.ndarray] = {}
        self._tail = np.zeros((0, y.shape[1]), np.float32)  # what is left of the sound from which a fade leads away
        self._gain = 1.0  # follows the volume

    def set_amounts(self, amounts: Amounts | AmountCurve | None) -> None:
        """Set the amounts of the sound "after"; None for no change."""
        with self._lock:
            self._amounts = amounts
        self.changed.set()

    def set_mix(self, mix: Mix) -> None:
        """Set how the sound "after" is mixed with the sound before, and its gain."""
        with self._lock:
            self._mix = mix
        self.changed.set()

    def set_solver(self, solver: AmountSolver, amounts: Amounts | AmountCurve | None) -> None:
        """Render with another solver of the same analysis, such as that of another model, and its amounts."""
        if solver.analysis.layers.tones is not self._tones:
            raise ValueError("solver.analysis must be the one that is played")
        with self._lock:
            self._field, self._amounts = solver.field, amounts
        self.changed.set()

    @property
    def _after(self) -> After | None:
        """What is wanted."""
        return After.of(self._field, self._amounts, self._mix)

    def listen(self, version: str) -> None:
        """Play one of the `VERSIONS`."""
        if version not in VERSIONS:
            raise ValueError(f"version={version!r} must be one of {', '.join(VERSIONS)}")
        with self._lock:
            self._version = version

    def play(self) -> None:
        """Play from the playhead, or from the start if it is at the end."""
        with self._lock:
            if self.position >= len(self.y):
                self.position = 0
            self._is_playing = True
        self.changed.set()

    def pause(self) -> None:
        """Fade out. A seek that waits is done."""
        with self._lock:
            if self._is_playing:
                self._stop_at(self.position if self._seek_target is None else self._seek_target)

    def reset(self) -> None:
        """Stop without a fade, because nobody calls `fill` any more."""
        self.pause()
        with self._lock:
            self._tail = self._tail[:0]

    @property
    def is_playing(self) -> bool:
        """True between `play` and `pause` or the end of the sound."""
        return self._is_playing

    @property
    def is_silent(self) -> bool:
        """True if playback has stopped and the fade is over."""
        with self._lock:
            return self.source is None and not self._is_playing and not len(self._tail)

    def seek(self, sample: int) -> None:
        """Move the playhead; during playback it moves as soon as the sound is rendered there."""
        sample = min(max(0, sample), len(self.y))
        with self._lock:
            if self._is_playing:
                self._seek_target = sample
            else:
                self.position = sample
        self.changed.set()

    def loop(self, region: tuple[int, int] | None) -> None:
        """Repeat the samples from ``region[0]`` up to but not including ``region[1]``; None ends the loop."""
        if region is not None:
            start, stop = (min(max(0, sample), len(self.y)) for sample in region)
            region = (start, stop) if stop - start > 2 * self.fade_samples else None
        with self._lock:
            self._loop = region
        self.changed.set()

    def prepare(self) -> bool:
        """Render what is played next, on the rendering thread; returns False if there was nothing to do."""
        with self._lock:
            after, needed = self._after, self._needed_pieces()
            missing = [] if after is None else [i for i in needed if (after, i) not in self._pieces]
        if not missing:
            return False
        first, size = missing[0], self._piece_samples
        n_pieces = 1
        while n_pieces < MIXER.pieces_at_once and first + n_pieces in missing:
            n_pieces += 1
        start, stop = first * size, min(len(self.y), (first + n_pieces) * size)
        rendered = after.render(start, stop, self._ceiling)
        with self._lock:
            for i in range(n_pieces):
                self._pieces[after, first + i] = rendered[i * size : (i + 1) * size]
            kept = {after, self._after, self.source and self.source.after}
            needed = set(self._needed_pieces())
            self._pieces = {key: y for key, y in self._pieces.items() if key[0] in kept and key[1] in needed}
        return True

    def _needed_pieces(self) -> list[int]:
        """Numbers of the pieces that will be played, the most urgent first."""
        loop, position, half = self._loop, self.position, self._ahead_samples // 2
        end = len(self.y) if loop is None or position >= loop[1] else loop[1]
        places = [(min(position, len(self.y) - 1), min(end, position + self._ahead_samples) + self.fade_samples)]
        if self._seek_target is not None:
            places.insert(0, (self._seek_target, self._seek_target + half))
        if loop is not None:
            places.append((loop[0], loop[0] + half))
        return list(dict.fromkeys(i for start, stop in places for i in self._pieces_of(start, stop)))

    def _pieces_of(self, start: int, stop: int) -> range:
        """Numbers of the pieces that hold the samples from ``start`` up to but not including ``stop``."""
        return range(start // self._piece_samples, -(-min(stop, len(self.y)) // self._piece_samples))

    def fill(self, out: np.ndarray) -> None:
        """Write the next block, shape (n, channels), in the audio callback."""
        with self._lock:
            if self.source is None and not len(self._tail):
                self._gain = self.volume
            n_filled = 0
            while n_filled < len(out):
                n_filled += self._fill_piece(out[n_filled : n_filled + self._piece_samples])
            self._apply_volume(out)
            self.meter.add(to_outputs(out))

    def _fill_piece(self, out: np.ndarray) -> int:
        """Make the changes that are due, and write samples up to the next one at the most; returns their number."""
        n, position, loop = len(out), self.position, self._loop
        if self._is_playing:
            if self._seek_target is not None and self._best_source(self._seek_target, n) is not None:
                position, self._seek_target = self._seek_target, None
            elif loop is not None and position == loop[1]:
                position = loop[0]
            end = len(self.y) if loop is None or position >= loop[1] else loop[1]
            if position < end:
                n = min(n, end - position)
                self._play_from(position, n)
            elif self._seek_target is None:
                self._stop_at(position)
            elif self.source is not None:  # wait for the place that was sought
                self._fade_to(None, position)
        out[:n] = self._next_samples(n)
        self._tail = self._tail[n:]
        if self.source is not None:
            self.position += n
        return n

    def _play_from(self, position: int, n: int) -> None:
        """Play the best source from a position on; fade to it if that is a change."""
        source = self._best_source(position, n)
        if source is None and self.source is not None:
            self.underruns += 1
        if position != self.position or source != self.source:
            self._fade_to(source, position)

    def _stop_at(self, position: int) -> None:
        """Fade to silence, and leave the playhead at a position."""
        self._is_playing, self._seek_target = False, None
        self._fade_to(None, position)

    def _fade_to(self, source: Source | None, position: int) -> None:
        """Begin a fade away from what would be played next."""
        if self.source is not None or len(self._tail):
            self._tail = self._next_samples(self.fade_samples)
        elif source is not None:
            self._tail = np.zeros((self.fade_samples, self.y.shape[1]), np.float32)
        self.source, self.position = source, position

    def _best_source(self, position: int, n: int) -> Source | None:
        """The source that is wanted, or the nearest to it that can be played at a position for ``n`` samples."""
        if self._version == "before":
            return Source("before", None)
        # The slider may move faster than rendering, which leaves earlier ones to play, the last first.
        earlier = (after for after, _ in reversed(self._pieces))
        rendered = (Source(self._version, after) for after in chain((self._after,), earlier))
        stop = position + n + self.fade_samples
        return next((each for each in (*rendered, self.source) if each and self._is_ready(each, position, stop)), None)

    def _is_ready(self, source: Source, start: int, stop: int) -> bool:
        """True if the samples from ``start`` up to but not including ``stop`` can be played."""
        return not source.is_rendered or all((source.after, i) in self._pieces for i in self._pieces_of(start, stop))

    def _next_samples(self, n: int) -> np.ndarray:
        """What is played next if nothing changes, shape (n, channels), before the volume."""
        out = self._signal(self.source, self.position, n)
        tail = self._tail[:n]
        rise = 1 + (np.arange(len(tail)) + 1 - len(self._tail)) / self.fade_samples
        rise = rise[:, None].astype(np.float32)
        out[: len(tail)] = rise * out[: len(tail)] + (1 - rise) * tail
        return out

    def _signal(self, source: Source | None, start: int, n: int) -> np.ndarray:
        """Samples of a source, shape (n, channels); beyond the end of the sound the last one, for the fade from it."""
        if source is None:
            return np.zeros((n, self.y.shape[1]), np.float32)
        stop = min(start + n, len(self.y))
        start = min(start, stop - 1)
        before = after = self.y[start:stop]
        tones = self._tones[start:stop]
        if source.is_rendered:
            size = self._piece_samples
            pieces = [
                self._pieces[source.after, i][max(0, start - i * size) : stop - i * size]
                for i in self._pieces_of(start, stop)
            ]
            after, tones = np.split(np.concatenate(pieces), 2, axis=1)
        versions = (before, after, after - before, tones, after - tones)
        signal = versions[VERSIONS.index(source.version)]
        return np.concatenate((signal, np.repeat(signal[-1:], n - len(signal), axis=0)))

    def _apply_volume(self, out: np.ndarray) -> None:
        """Multiply with the volume, which moves no faster than a fade."""
        most = np.arange(1, len(out) + 1, dtype=np.float32) / self.fade_samples
        gain = np.clip(np.float32(self.volume), self._gain - most, self._gain + most)
        out *= gain[:, None]
        self._gain = float(gain[-1])

"""Makes the samples that are played: the sound before, after, or the difference, without a click at any change.

Blocks of the sound "after" are rendered a little ahead of the playhead (`Mixer.prepare`) and played from there
(`Mixer.fill`). Every change, such as another amount, another version, a seek or the end of a loop, is a linear
cross-fade of a few milliseconds between the old signal, which continues, and the new one.

In: samples of shape (n_samples, channels), an `AmountSolver` of the same sound, and amounts. Out: blocks of samples of
shape (n, channels). The module knows nothing of windows, audio devices or clocks.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.solver import AmountSolver

VERSIONS = ("before", "after", "difference")


@dataclass(frozen=True)
class MixerSettings:
    """Times of the mixer."""

    fade_s: float = 0.006  # short enough to feel immediate, long enough to avoid a click
    ahead_s: float = 0.3  # rendered ahead of the playhead, so that a slow rendering does not interrupt the sound


MIXER = MixerSettings()


@dataclass(frozen=True, eq=False)
class RenderedPart:
    """Samples of the sound "after" from ``start`` on, shape (n, channels)."""

    amounts: Amounts
    start: int
    y: np.ndarray

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.start + len(self.y)

    def contains(self, start: int, n: int = 1) -> bool:
        """True if ``n`` samples from ``start`` on are rendered."""
        return self.start <= start and start + n <= self.stop


@dataclass(frozen=True, eq=False)
class Source:
    """What a block of samples is made of."""

    version: str
    amounts: Amounts | None
    parts: tuple[RenderedPart, ...]

    def sounds_like(self, other: Source | None) -> bool:
        """True if both give the same samples at the same position."""
        if other is None or self.version != other.version:
            return False
        return self.version == "before" or self.amounts == other.amounts

    def part_with(self, start: int, n: int) -> RenderedPart | None:
        """The rendered part that contains ``n`` samples from ``start`` on."""
        return next((part for part in self.parts if part.amounts == self.amounts and part.contains(start, n)), None)

    def is_ready(self, start: int, n: int) -> bool:
        """True if ``n`` samples from ``start`` on can be played."""
        return self.version == "before" or self.amounts is None or n <= 0 or self.part_with(start, n) is not None


class Jump(NamedTuple):
    """A new position of the playhead, and what was rendered there before it moves."""

    position: int
    parts: tuple[RenderedPart, ...]


class Fade(NamedTuple):
    """A cross-fade from an old source, which continues from its own position; None is silence."""

    source: Source | None
    position: int
    n_done: int  # samples of the fade that were played


class Mixer:
    """Plays one sound at the amounts and in the version that were set last.

    Three threads use a mixer. They share no lock, because the audio callback must never wait:

    - The caller, such as the window, sets what is wanted. It writes ``_amounts``, ``_version``, ``_loop``,
      ``_is_playing``, ``_seek_target`` and ``volume``, and while nothing plays also ``position`` and ``_parts``.
    - The rendering thread calls `prepare`. It writes ``_parts`` and ``_prepared_jump`` and clears ``_seek_target``.
    - The audio callback calls `fill`. It writes ``position``, ``source``, ``_fade``, ``peak`` and ``underruns``, takes
      over ``_prepared_jump`` with its parts, and clears ``_is_playing`` at the end of the sound.

    Each of these fields holds an immutable value and is replaced by a single assignment, so a thread that reads it
    once sees either the old or the new value.

    Parameters
    ----------
    y : np.ndarray, shape (n_samples, channels), float32, the sound before
    sr : int > 0, Hz
    solver : AmountSolver of the same sound

    Attributes
    ----------
    position : int, the playhead in samples
    source : Source or None, what the last block was made of; None for silence
    peak : float, decaying peak level of the output, full scale 1.0
    underruns : int, blocks for which nothing was rendered in time
    volume : float, factor on the output
    changed : threading.Event, set when there is something new to prepare
    """

    def __init__(self, y: np.ndarray, sr: int, solver: AmountSolver):
        self.y, self.sr, self._field = y, sr, solver.field
        self.position = 0
        self.underruns = 0
        self.peak = 0.0
        self.volume = 1.0
        self.source: Source | None = None
        self.changed = threading.Event()
        self.fade_samples = max(1, round(MIXER.fade_s * sr))
        self._ahead_samples = round(MIXER.ahead_s * sr)
        self._version = "after"
        self._amounts: Amounts | None = None
        self._loop: tuple[int, int] | None = None
        self._is_playing = False
        self._parts: tuple[RenderedPart, ...] = ()
        self._seek_target: int | None = None
        self._prepared_jump: Jump | None = None
        self._fade: Fade | None = None

    def set_amounts(self, amounts: Amounts | None) -> None:
        """Set the amounts of the sound "after"; None for no change."""
        self._amounts = amounts
        self.changed.set()

    def listen(self, version: str) -> None:
        """Play "before", "after" or "difference"."""
        if version not in VERSIONS:
            raise ValueError(f"version={version!r} must be one of {', '.join(VERSIONS)}")
        self._version = version

    def play(self) -> None:
        """Play from the playhead, or from the start if it is at the end."""
        if self.position >= len(self.y):
            self.seek(0)
        self._is_playing = True
        self.changed.set()

    def pause(self) -> None:
        """Fade out."""
        self._is_playing = False

    @property
    def is_playing(self) -> bool:
        """True between `play` and `pause` or the end of the sound."""
        return self._is_playing

    @property
    def is_silent(self) -> bool:
        """True if playback has stopped and the fade is over."""
        return not self._is_playing and self.source is None and self._fade is None

    def seek(self, sample: int) -> None:
        """Move the playhead; during playback it moves as soon as the sound is rendered there."""
        sample = min(max(0, sample), len(self.y))
        if not self._is_playing:
            self.position, self._parts = sample, ()
        self._seek_target = sample if self._is_playing else None
        self.changed.set()

    def loop(self, region: tuple[int, int] | None) -> None:
        """Repeat the samples from ``region[0]`` up to but not including ``region[1]``; None ends the loop."""
        if region is not None:
            start, stop = (min(max(0, sample), len(self.y)) for sample in region)
            region = (start, stop) if stop - start > 2 * self.fade_samples else None
        self._loop = region
        self.changed.set()

    def prepare(self) -> bool:
        """Render what is played next, on the rendering thread; returns False if there was nothing to do."""
        seek_target, amounts = self._seek_target, self._amounts
        if seek_target is not None:
            self._seek_target = None
            self._prepared_jump = Jump(seek_target, self._render(amounts, seek_target, self._ahead_samples))
            return True
        position, parts, loop = self.position, self._parts, self._loop
        if amounts is None:
            return False
        usable = [part for part in parts if part.amounts == amounts]
        current = next((part for part in usable if part.contains(position)), None)
        new = self._render_ahead(amounts, position, loop, current)
        if loop is not None and not any(part.contains(loop[0]) for part in (*usable, *new)):
            new += self._render(amounts, loop[0], self._ahead_samples // 2)
        if not new:
            return False
        kept = [part for part in usable if loop and part is not current and part.contains(loop[0])]
        if current is not None and not any(part.contains(position) for part in new):
            kept.append(current)
        self._parts = (*new, *kept)
        return True

    def _render_ahead(
        self, amounts: Amounts, position: int, loop: tuple[int, int] | None, current: RenderedPart | None
    ) -> tuple[RenderedPart, ...]:
        """A part at the playhead that extends ``current``, the part that is played; empty if it is long enough."""
        n_new = self._ahead_samples // 2
        if current is None:
            return self._render(amounts, position, n_new)
        end = len(self.y) if loop is None or position >= loop[1] else loop[1]
        needed_until = min(end, position + self._ahead_samples) + self.fade_samples
        if current.stop >= min(needed_until, len(self.y)):
            return ()
        # What was played is dropped, except for a margin of two fades before the playhead.
        kept = current.y[max(0, position - current.start - 2 * self.fade_samples) :]
        added = [part.y for part in self._render(amounts, current.stop, n_new)]
        return (RenderedPart(amounts, current.stop - len(kept), np.concatenate((kept, *added))),)

    def _render(self, amounts: Amounts | None, start: int, n: int) -> tuple[RenderedPart, ...]:
        """At most ``n`` samples as a part; empty at the end of the sound and where nothing has to be rendered."""
        stop = min(len(self.y), start + n)
        if amounts is None or stop <= start:
            return ()
        return (RenderedPart(amounts, start, self._field.render_part(self.y, amounts, start, stop)),)

    def fill(self, out: np.ndarray) -> None:
        """Write the next block, shape (n, channels), in the audio callback."""
        if self._prepared_jump is not None:
            jump, self._prepared_jump = self._prepared_jump, None
            self._begin_fade()
            self.position, self._parts = jump
        n_filled = 0
        while n_filled < len(out):
            n = len(out) - n_filled
            loop = self._loop
            if loop is not None and self.position < loop[1]:
                n = min(n, loop[1] - self.position)
            self._fill_piece(out[n_filled : n_filled + n])
            n_filled += n
            if loop is not None and self.position == loop[1]:
                self._begin_fade()
                self.position = loop[0]
        if self._is_playing and self.position >= len(self.y):
            self._is_playing = False
        out *= self.volume
        self.peak = max(self.peak * 0.9, float(np.abs(out).max(initial=0.0)))

    def _begin_fade(self) -> None:
        self._fade = Fade(self.source, self.position, 0)

    def _fill_piece(self, out: np.ndarray) -> None:
        """Write samples that do not cross the end of a loop, and move the playhead."""
        wanted = self._next_source(len(out))
        is_same = self.source is None if wanted is None else wanted.sounds_like(self.source)
        if is_same:
            self.source = wanted
        elif self._fade is None:
            self._begin_fade()
            self.source = wanted
        out[:] = self._signal(self.source, self.position, len(out))
        if self._fade is not None:
            old, position, n_done = self._fade
            n = min(len(out), self.fade_samples - n_done)
            rise = ((n_done + 1 + np.arange(n)) / self.fade_samples)[:, None].astype(np.float32)
            out[:n] = rise * out[:n] + (1 - rise) * self._signal(old, position + n_done, n)
            self._fade = Fade(old, position, n_done + n) if n_done + n < self.fade_samples else None
        if self.source is not None:
            self.position += len(out)

    def _next_source(self, n: int) -> Source | None:
        """The source of the next ``n`` samples: the one that is wanted, or the nearest to it that is ready."""
        if not self._is_playing:
            return None
        wanted = Source(self._version, self._amounts, self._parts)
        n = min(n, len(self.y) - self.position)
        if wanted.is_ready(self.position, n):
            return wanted
        for part in wanted.parts:  # the slider may move faster than rendering, which leaves earlier amounts to play
            earlier = replace(wanted, amounts=part.amounts)
            if earlier.is_ready(self.position, n):
                return earlier
        return self.source

    def _signal(self, source: Source | None, start: int, n: int) -> np.ndarray:
        """Samples of a source, shape (n, channels); zeros beyond the end of the sound."""
        before = np.zeros((n, self.y.shape[1]), np.float32)
        if source is None:
            return before
        inside = self.y[start : start + n]
        before[: len(inside)] = inside
        if source.version == "before":
            return before
        after = before
        if source.amounts is not None and len(inside):
            part = source.part_with(start, len(inside))
            if part is None:
                self.underruns += 1
            else:
                after = np.zeros_like(before)
                after[: len(inside)] = part.y[start - part.start :][: len(inside)]
        return after if source.version == "after" else after - before

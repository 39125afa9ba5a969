"""TODO"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np

from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.solver import AmountSolver

FADE_S = 0.006  # from one sound to another: short enough to feel at once, long enough not to click
AHEAD_S = 0.3  # rendered before it is heard


class Mixer:
    """What is heard: the sound before, after, or the difference, from one place on, with no click at any change.

    Knows nothing of windows, devices or time: an audio thread calls `fill` for each block, a thread of its
    own calls `prepare` to render ahead, anyone else sets what is wanted.

    Parameters
    ----------
    y : np.ndarray, shape (n_samples, channels), the sound before
    sr : int > 0, Hz
    solver : AmountSolver, of the same sound
    """

    def __init__(self, y: np.ndarray, sr: int, solver: AmountSolver):
        self.y, self.sr, self._solver = y, sr, solver
        self.position = 0
        self.underruns = 0
        self.peak = 0.0
        self.volume = 1.0
        self._fade_samples = max(1, round(FADE_S * sr))
        self._ahead = round(AHEAD_S * sr)
        self._listen = "after"
        self._amounts: Amounts | None = None
        self._loop: tuple[int, int] | None = None
        self._playing = False
        self._parts: tuple[_Part, ...] = ()  # of the sound after; replaced as a whole, never changed
        self._seek: int | None = None
        self._jump: tuple[int, tuple[_Part, ...]] | None = None
        self._heard: _Heard | None = None
        self._fade: tuple[_Heard | None, int, int] | None = None  # what fades out, its position, samples done
        self.changed = threading.Event()

    # Set by anyone

    def want(self, amounts: Amounts | None) -> None:
        """Amounts of change to hear as the sound after; None for none."""
        self._amounts = amounts
        self.changed.set()

    def listen(self, which: str) -> None:
        """Hear "before", "after" or "difference"."""
        if which not in ("before", "after", "difference"):
            raise ValueError(f"which={which!r} is not before, after or difference")
        self._listen = which

    def play(self) -> None:
        """Go on from the position, which starts anew at the end."""
        if self.position >= len(self.y):
            self.seek(0)
        self._playing = True
        self.changed.set()

    def pause(self) -> None:
        """Fade out."""
        self._playing = False

    @property
    def is_playing(self) -> bool:
        """Whether it goes on."""
        return self._playing

    @property
    def is_silent(self) -> bool:
        """Whether nothing sounds any more."""
        return not self._playing and self._heard is None and self._fade is None

    def seek(self, sample: int) -> None:
        """Go on somewhere else."""
        sample = min(max(0, sample), len(self.y))
        if not self._playing:
            self.position, self._parts = sample, ()
        self._seek = sample if self._playing else None
        self.changed.set()

    def loop(self, region: tuple[int, int] | None) -> None:
        """Go round inside a region of samples, or no longer."""
        if region is not None:
            start, stop = (min(max(0, sample), len(self.y)) for sample in region)
            region = (start, stop) if stop - start > 2 * self._fade_samples else None
        self._loop = region
        self.changed.set()

    # The thread that renders ahead

    def prepare(self) -> bool:
        """Render what will be heard next; returns whether there was anything to do."""
        seek, amounts = self._seek, self._amounts
        if seek is not None:
            self._seek = None
            self._jump = (seek, self._rendered(amounts, seek, self._ahead))
            return True
        position, parts = self.position, self._parts
        parts = tuple(part for part in parts if part.amounts == amounts)
        if amounts is None:
            return False
        now = next((part for part in parts if part.start <= position < part.stop), None)
        end = len(self.y) if self._loop is None or position >= self._loop[1] else self._loop[1]
        wanted = min(end, position + self._ahead) + self._fade_samples
        new: list[_Part] = []
        if now is None:
            new += self._rendered(amounts, position, self._ahead // 2)
        elif now.stop < min(wanted, len(self.y)):
            kept = now.y[max(0, position - now.start - 2 * self._fade_samples) :]
            more = self._rendered(amounts, now.stop, self._ahead // 2)
            new.append(_Part(amounts, now.stop - len(kept), np.concatenate((kept, *(part.y for part in more)))))
        if self._loop is not None and not any(p.start <= self._loop[0] < p.stop for p in (*parts, *new)):
            new += self._rendered(amounts, self._loop[0], self._ahead // 2)
        if not new:
            return False
        heads = [part for part in parts if self._loop and part is not now and part.start <= self._loop[0] < part.stop]
        if now is not None and now not in heads and not any(part.start <= position < part.stop for part in new):
            heads.append(now)
        self._parts = (*new, *heads)
        return True

    def _rendered(self, amounts: Amounts | None, start: int, n: int) -> tuple[_Part, ...]:
        stop = min(len(self.y), start + n)
        if amounts is None or stop <= start:
            return ()
        return (_Part(amounts, start, self._solver.render_part(self.y, amounts, start, stop)),)

    # The audio thread

    def fill(self, out: np.ndarray) -> None:
        """Write the next block, shape (samples, channels)."""
        done = 0
        if self._jump is not None:
            (position, parts), self._jump = self._jump, None
            self._begin_fade()
            self.position, self._parts = position, parts
        while done < len(out):
            n = len(out) - done
            loop = self._loop
            if loop is not None and self.position < loop[1]:
                n = min(n, loop[1] - self.position)
            self._fill_part(out[done : done + n])
            done += n
            if loop is not None and self.position == loop[1]:
                self._begin_fade()
                self.position = loop[0]
        if self._playing and self.position >= len(self.y):
            self._playing = False
        out *= self.volume
        self.peak = max(self.peak * 0.9, float(np.abs(out).max(initial=0.0)))

    def _begin_fade(self) -> None:
        self._fade = (self._heard, self.position, 0)

    def _fill_part(self, out: np.ndarray) -> None:
        wanted = self._next_heard(len(out))
        if (wanted and wanted.key) == (self._heard and self._heard.key):
            self._heard = wanted
        elif self._fade is None:
            self._begin_fade()
            self._heard = wanted
        out[:] = self._signal(self._heard, self.position, len(out))
        if self._fade is not None:
            old, position, faded = self._fade
            k = min(len(out), self._fade_samples - faded)
            rise = ((faded + 1 + np.arange(k)) / self._fade_samples)[:, None].astype(np.float32)
            out[:k] = rise * out[:k] + (1 - rise) * self._signal(old, position + faded, k)
            self._fade = (old, position, faded + k) if faded + k < self._fade_samples else None
        if self._heard is not None:
            self.position += len(out)

    def _next_heard(self, n: int) -> _Heard | None:
        if not self._playing:
            return None
        wanted = _Heard(self._listen, self._amounts, self._parts)
        n = min(n, len(self.y) - self.position)
        if wanted.amounts is None or wanted.listen == "before" or wanted.covers(self.position, n):
            return wanted
        for part in wanted.parts:  # moves may come faster than they are rendered: then the last that was
            rendered = replace(wanted, amounts=part.amounts)
            if rendered.covers(self.position, n):
                return rendered
        return self._heard  # nothing rendered yet: go on as it was, or wait

    def _signal(self, heard: _Heard | None, start: int, n: int) -> np.ndarray:
        before = np.zeros((n, self.y.shape[1]), np.float32)
        if heard is None:
            return before
        inside = self.y[start : start + n]
        before[: len(inside)] = inside
        if heard.listen == "before":
            return before
        after = before
        if heard.amounts is not None and len(inside):
            part = heard.part_for(start, len(inside))
            if part is None:
                self.underruns += 1
            else:
                after = np.zeros_like(before)
                after[: len(inside)] = part.y[start - part.start :][: len(inside)]
        return after if heard.listen == "after" else after - before


@dataclass(frozen=True)
class _Part:
    """Some of the sound after: samples from ``start`` on."""

    amounts: Amounts
    start: int
    y: np.ndarray

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.start + len(self.y)


@dataclass(frozen=True)
class _Heard:
    """What a block is made of."""

    listen: str
    amounts: Amounts | None
    parts: tuple[_Part, ...]

    @property
    def key(self) -> tuple:
        """What makes it sound other."""
        return self.listen, self.amounts if self.listen != "before" else None

    def part_for(self, start: int, n: int) -> _Part | None:
        """The part that holds some samples."""
        for part in self.parts:
            if part.amounts == self.amounts and part.start <= start and start + n <= part.stop:
                return part
        return None

    def covers(self, start: int, n: int) -> bool:
        """Whether some samples are rendered."""
        return n <= 0 or self.part_for(start, n) is not None

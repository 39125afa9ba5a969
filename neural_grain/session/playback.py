"""What the user hears of an open sound: which of its versions, from a place on, perhaps in a loop.

`Playback` joins a `Mixer` (which makes the samples) with a `Player` (which sends them to the sound card). It also
holds the switch between before and after. A short press on it stays, a long press lasts until it is released.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neural_grain.dsp.gains import AmountCurve, Amounts
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.solver import AmountSolver
from neural_grain.session.mixer import Mixer
from neural_grain.session.player import Player


@dataclass(frozen=True)
class PlaybackSettings:
    """Times of the switch."""

    tap_s: float = 0.35  # a longer press is a hold
    key_repeat_ms: int = 20  # X11 repeats a held key as release and press, at most this far apart


PLAYBACK = PlaybackSettings()


@dataclass(frozen=True)
class Hold:
    """A press of the switch: what was heard before it, and when it began."""

    previous: str
    started_s: float


class Playback:
    """Plays one sound, and switches between its versions.

    Parameters
    ----------
    player : Player
    after : callable like `tkinter.Misc.after`
    after_cancel : callable like `tkinter.Misc.after_cancel`
    on_change : called when another version is heard

    Attributes
    ----------
    mixer : Mixer or None, of the open sound
    listening : one of the `VERSIONS`; kept from sound to sound
    mix : Mix of the sound "after"
    """

    def __init__(
        self,
        player: Player,
        after: Callable[[int, Callable[[], None]], str],
        after_cancel: Callable[[str], None],
        on_change: Callable[[], None],
    ):
        self.player = player
        self.mixer: Mixer | None = None
        self.listening = "after"
        self.mix = NO_MIX
        self._after, self._after_cancel, self._on_change = after, after_cancel, on_change
        self._hold: Hold | None = None
        self._release: str | None = None  # the callback that ends a hold unless the key was only repeated

    def open(self, y: np.ndarray, sr: int, solver: AmountSolver, volume: float) -> None:
        """Prepare to play a sound, shape (n_samples, channels)."""
        self.mixer = Mixer(y, sr, solver)
        self.mixer.volume = volume
        self.mixer.listen(self.listening)
        self.mixer.set_mix(self.mix)

    def set_solver(self, solver: AmountSolver, amounts: Amounts | AmountCurve | None) -> None:
        """Go on with another solver of the same analysis, such as that of another model, and its amounts."""
        if self.mixer is not None:
            self.mixer.set_solver(solver, amounts)

    def set_mix(self, mix: Mix) -> None:
        """Set how the sound "after" is mixed; kept from sound to sound."""
        self.mix = mix
        if self.mixer is not None:
            self.mixer.set_mix(mix)

    def close(self) -> None:
        """Stop, and forget the sound."""
        self.player.close()
        self.mixer = None

    def cancel_release(self) -> None:
        """Forget a callback that waits, because the window is about to close."""
        if self._release is not None:
            self._after_cancel(self._release)
            self._release = None

    @property
    def is_playing(self) -> bool:
        """Whether the sound is playing."""
        return self.mixer is not None and self.mixer.is_playing

    @property
    def is_held(self) -> bool:
        """Whether the switch is pressed."""
        return self._hold is not None

    @property
    def position_s(self) -> float | None:
        """Seconds from the start of the sound; None if there is none."""
        return None if self.mixer is None else self.mixer.position / self.mixer.sr

    @property
    def peak_db(self) -> float:
        """Peak level of what the sound card gets, in dB of full scale; -inf in silence and while nothing plays."""
        peak = self.mixer.meter.peak if self.is_playing else 0.0
        return 20 * math.log10(peak) if peak > 0 else -math.inf

    @property
    def is_clipped(self) -> bool:
        """Whether the sound card had to clip this sound since the last `reset_clip`."""
        return self.mixer is not None and self.mixer.meter.is_clipped

    def reset_clip(self) -> None:
        """Switch the clip light off."""
        if self.mixer is not None:
            self.mixer.meter.reset_clip()

    def toggle(self) -> str:
        """Play or pause; returns why that is not possible, or an empty string."""
        if self.is_playing:
            self.player.pause()
            return ""
        return self.player.play(self.mixer)

    def choose_output(self, name: str) -> str:
        """Use an output device by its name, empty for the default one; returns what went wrong, or an empty string."""
        return self.player.choose(name)

    def seek(self, seconds: float) -> None:
        """Continue from another place."""
        if self.mixer is not None:
            self.mixer.seek(round(seconds * self.mixer.sr))

    def loop(self, region_s: tuple[float, float] | None) -> None:
        """Repeat a part of the sound; with None play on to the end."""
        if self.mixer is not None:
            sr = self.mixer.sr
            self.mixer.loop(None if region_s is None else (round(region_s[0] * sr), round(region_s[1] * sr)))

    def listen(self, version: str) -> None:
        """Hear a version."""
        self.listening = version
        if self.mixer is not None:
            self.mixer.listen(version)
        self._on_change()

    def press(self, version: str) -> None:
        """Hear a version from now on; `release` goes back unless the press was short."""
        if self.mixer is not None:
            self._hold = Hold(self.listening, time.monotonic())
            self.listen(version)

    def release(self) -> None:
        """End a press."""
        if self._hold is not None and time.monotonic() - self._hold.started_s > PLAYBACK.tap_s:
            self.listen(self._hold.previous)
        self._hold = None

    def press_key(self) -> None:
        """Press the key that switches between before and after."""
        if self._release is not None:
            self.cancel_release()  # the key was held and repeated
        elif self._hold is None:
            self.press("after" if self.listening == "before" else "before")

    def release_key(self) -> None:
        """Release the key, unless a press follows at once."""
        if self._hold is not None and self._release is None:
            self._release = self._after(PLAYBACK.key_repeat_ms, self._end_key)

    def _end_key(self) -> None:
        self._release = None
        self.release()

"""Plays a `Mixer` on the sound card through sounddevice (PortAudio).

The audio callback asks the mixer for blocks of samples, and a thread renders ahead for it. Without sounddevice,
PortAudio or a sound card, playing returns the reason and everything else works.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from neural_grain.app.mixer import Mixer
from neural_grain.base.errors import printable

RENDER_POLL_S = 0.02  # the rendering thread looks at the playhead so often; the mixer renders 0.3 s ahead of it
FADE_OUT_TIMEOUT_S = 0.3  # a stream that is closed may take so long to fade out; a device that hangs would take forever
MAX_OUTPUTS = 2  # channels of the sound card that are used


class Player:
    """Plays one mixer at a time.

    Parameters
    ----------
    device : module with the interface of sounddevice, for tests; the real one if None

    Attributes
    ----------
    unavailable : str, why there is no sound; empty if there is
    """

    def __init__(self, device: ModuleType | Any | None = None):
        self.unavailable = ""
        if device is None:
            try:
                import sounddevice as device
            except (ImportError, OSError) as err:  # OSError if the PortAudio library is missing
                self.unavailable = f"no sound: {printable(str(err))}"
        self._device = device
        self._stream: Any = None
        self._mixer: Mixer | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = threading.Event()  # of the thread

    def play(self, mixer: Mixer) -> str:
        """Play a mixer from its position; returns the reason if that is not possible, or an empty string."""
        if self._device is None:
            return self.unavailable
        if mixer is not self._mixer or self._stream is None or not self._stream.active:
            self.close()
            try:
                self._open(mixer)
            except (self._device.PortAudioError, ValueError) as err:
                self.close()
                return f"no sound: {printable(str(err))}"
        mixer.play()
        return ""

    def _open(self, mixer: Mixer) -> None:
        """Start a stream and the thread that renders ahead for it."""
        channels = mixer.y.shape[1]
        buffer = np.zeros((0, channels), np.float32)

        def callback(out: np.ndarray, n: int, _time: object, _status: object) -> None:
            nonlocal buffer
            if len(buffer) < n:
                buffer = np.zeros((n, channels), np.float32)
            mixer.fill(buffer[:n])
            if channels <= MAX_OUTPUTS:
                out[:] = buffer[:n]
            else:  # the mean of channels 1, 3, 5 ... to the left and of 2, 4, 6 ... to the right
                for side in range(MAX_OUTPUTS):
                    out[:, side] = buffer[:n, side::MAX_OUTPUTS].mean(axis=1)

        self._stream = self._device.OutputStream(
            samplerate=mixer.sr,
            channels=min(channels, MAX_OUTPUTS),
            dtype="float32",
            latency="low",
            callback=callback,
        )
        self._stream.start()
        self._mixer, self._is_closed = mixer, threading.Event()
        self._thread = threading.Thread(
            target=self._render_ahead, args=(mixer, self._is_closed), name="grain player", daemon=True
        )
        self._thread.start()

    @staticmethod
    def _render_ahead(mixer: Mixer, is_closed: threading.Event) -> None:
        while not is_closed.is_set():
            if not mixer.prepare():
                mixer.changed.wait(RENDER_POLL_S)
                mixer.changed.clear()

    def pause(self) -> None:
        """Fade out; `play` continues there."""
        if self._mixer is not None:
            self._mixer.pause()

    def check(self) -> str:
        """Return why a stream that should play has stopped, for example because its device was unplugged."""
        if self._mixer is not None and self._mixer.is_playing and self._stream is not None and not self._stream.active:
            self.close()
            return "no sound: the device stopped; choose another in the system's settings and play again"
        return ""

    def close(self) -> None:
        """Fade out, and stop the stream and the rendering thread."""
        stream, mixer, thread = self._stream, self._mixer, self._thread
        self._stream = self._mixer = self._thread = None
        if stream is not None:
            # `stop` plays what the device holds already, which ends in silence after a fade.
            has_faded = mixer is not None and stream.active and self._fade_out(mixer)
            for stop in (stream.stop if has_faded else stream.abort, stream.close):
                with suppress(self._device.PortAudioError):  # the device is gone, which `check` reports
                    stop()
        if mixer is not None:
            mixer.reset()
            self._is_closed.set()
            mixer.changed.set()
            thread.join(timeout=5)

    @staticmethod
    def _fade_out(mixer: Mixer) -> bool:
        """Pause, and wait until the fade is over; returns False if the device takes no more samples."""
        mixer.pause()
        deadline = time.monotonic() + FADE_OUT_TIMEOUT_S
        while not mixer.is_silent:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

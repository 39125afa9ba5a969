"""TODO"""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np

from neural_grain.app.mixer import Mixer
from neural_grain.base.errors import printable

PREPARE_S = 0.02


class Player:
    """Plays a mixer through sounddevice, where that, PortAudio and a sound card are there.

    Parameters
    ----------
    device : module like sounddevice, for tests; the real one if None
    """

    def __init__(self, device=None):
        self.why_not = ""
        if device is None:
            try:
                import sounddevice as device
            except (ImportError, OSError) as err:
                self.why_not = f"no sound: {printable(str(err))}"
        self._device = device
        self._stream = None
        self._mixer: Mixer | None = None
        self._is_open = False
        self._thread: threading.Thread | None = None

    def play(self, mixer: Mixer) -> str:
        """Play a mixer from its position; returns why it can't, or nothing."""
        if self._device is None:
            return self.why_not
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
        channels = mixer.y.shape[1]
        heard = min(channels, 2)
        buffer = np.zeros((0, channels), np.float32)

        def callback(out: np.ndarray, n: int, _time: object, _status: object) -> None:
            nonlocal buffer
            if len(buffer) < n:
                buffer = np.zeros((n, channels), np.float32)
            mixer.fill(buffer[:n])
            if channels <= 2:
                out[:] = buffer[:n]
            else:  # every second channel to each side
                for side in range(2):
                    out[:, side] = buffer[:n, side::2].mean(axis=1)

        self._stream = self._device.OutputStream(
            samplerate=mixer.sr, channels=heard, dtype="float32", latency="low", callback=callback
        )
        self._stream.start()
        self._mixer, self._is_open = mixer, True
        self._thread = threading.Thread(target=self._render_ahead, args=(mixer,), name="grain player", daemon=True)
        self._thread.start()

    def _render_ahead(self, mixer: Mixer) -> None:
        while self._is_open:
            if not mixer.prepare():
                mixer.changed.wait(PREPARE_S)
                mixer.changed.clear()

    def pause(self) -> None:
        """Fade out and wait."""
        if self._mixer is not None:
            self._mixer.pause()

    def check(self) -> str:
        """Why a stream that should play no longer does (its device is gone), or nothing."""
        if self._mixer is not None and self._mixer.is_playing and self._stream is not None and not self._stream.active:
            self._mixer.pause()
            self.close()
            return "no sound: the device stopped; choose another in the system's settings and play again"
        return ""

    def close(self) -> None:
        """End the stream and the thread that renders for it."""
        self._is_open = False
        if self._mixer is not None:
            self._mixer.pause()
            self._mixer.changed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        stream, self._stream, self._mixer, self._thread = self._stream, None, None, None
        if stream is not None:
            for end in (stream.abort, stream.close):
                with suppress(self._device.PortAudioError):  # the device has vanished: `check` says so
                    end()

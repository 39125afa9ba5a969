"""Plays a `Mixer` on an output device through sounddevice (PortAudio).

The audio callback asks the mixer for blocks of samples, and a thread renders ahead for it. Without sounddevice,
PortAudio or a sound card, playing returns the reason and everything else works.

PortAudio finds the devices once, when it starts. So it is started again when a device has disappeared, or when the user
looks for one that was connected later (`Player.refresh`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from neural_grain.base.errors import printable
from neural_grain.session.meter import MAX_OUTPUTS, to_outputs
from neural_grain.session.mixer import Mixer

RENDER_POLL_S = 0.02  # the rendering thread looks at the playhead so often; the mixer renders 0.3 s ahead of it
FADE_OUT_TIMEOUT_S = 0.3  # a stream that is closed may take so long to fade out; a device that hangs would take forever
STALL_S = 5.0  # a device that takes no block for so long is gone, although its stream may say that it is active


class Player:
    """Plays one mixer at a time.

    Parameters
    ----------
    device : module with the interface of sounddevice, for tests; the real one if None

    Attributes
    ----------
    unavailable : str, why there is no sound; empty if there is
    output : str, name of the output device that was chosen; empty for the default one
    """

    def __init__(self, device: ModuleType | Any | None = None):
        self.unavailable = self.output = ""
        self._is_missed = False  # whether the user knows that the chosen device is not there
        self._last_block_s = 0.0  # time at which the device asked for samples last
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

    @property
    def outputs(self) -> list[str]:
        """Names of the output devices, the default one first."""
        return list(self._outputs())

    def _outputs(self) -> dict[str, int]:
        """Numbers of the output devices by their names, in which a host API tells devices of one name apart."""
        if self._device is None:
            return {}
        try:
            apis, infos = self._device.query_hostapis(), self._device.query_devices()
            default = self._device.default.device[1]
        except self._device.PortAudioError:  # it could not be started again
            return {}
        devices = [(i, info) for i, info in enumerate(infos) if info["max_output_channels"] > 0]
        counts = Counter(info["name"] for _, info in devices)
        outputs: dict[str, int] = {}
        for i, info in sorted(devices, key=lambda device: device[0] != default):
            api = f" ({apis[info['hostapi']]['name']})" if counts[info["name"]] > 1 else ""
            outputs.setdefault(f"{info['name']}{api}", i)
        return outputs

    def refresh(self) -> None:
        """Find the devices that are connected now. Nothing is done during playback, which it would end."""
        if self._device is None or (self._mixer is not None and self._mixer.is_playing):
            return
        self.close()
        with suppress(self._device.PortAudioError):  # without PortAudio, playing will say so
            self._device._terminate()  # sounddevice has no public name for it
            self._device._initialize()

    def choose(self, name: str) -> str:
        """Use an output device, or the default one for an empty name; a sound that plays goes on there.

        Returns
        -------
        str
            What went wrong, as from `play`.
        """
        self.output, self._is_missed = name, False
        mixer = self._mixer if self._mixer is not None and self._mixer.is_playing else None
        self.close()
        return "" if mixer is None else self.play(mixer)

    def play(self, mixer: Mixer) -> str:
        """Play a mixer from its position.

        Returns
        -------
        str
            The reason if that is not possible, that it plays on another device than the chosen one, or nothing.
        """
        if self._device is None:
            return self.unavailable
        fault = ""
        if mixer is not self._mixer or self._stream is None or not self._stream.active:
            self.close()
            fault = self._find_output()
            try:
                self._open(mixer)
            except (self._device.PortAudioError, ValueError) as err:
                self.close()
                return f"no sound: {printable(str(err))}"
        mixer.play()
        return fault

    def _find_output(self) -> str:
        """Look for the chosen device; if it is missing, returns once that the default one plays instead."""
        if self.output and self.output not in self._outputs():
            self.refresh()  # it may have been connected again
        was_missed, self._is_missed = self._is_missed, bool(self.output) and self.output not in self._outputs()
        if was_missed or not self._is_missed:
            return ""
        return f"the output {printable(self.output)} is not connected; playing on the default one"

    def _open(self, mixer: Mixer) -> None:
        """Start a stream and the thread that renders ahead for it."""
        channels = mixer.y.shape[1]
        buffer = np.zeros((0, channels), np.float32)

        def callback(out: np.ndarray, n: int, _time: object, _status: object) -> None:
            nonlocal buffer
            self._last_block_s = time.monotonic()
            if len(buffer) < n:
                buffer = np.zeros((n, channels), np.float32)
            mixer.fill(buffer[:n])
            out[:] = to_outputs(buffer[:n])

        self._stream = self._device.OutputStream(
            samplerate=mixer.sr,
            channels=min(channels, MAX_OUTPUTS),
            dtype="float32",
            latency="low",
            callback=callback,
            device=self._outputs().get(self.output),  # None for the default one
        )
        self._last_block_s = time.monotonic()
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
        if self._mixer is None or not self._mixer.is_playing or self._stream is None:
            return ""
        if self._stream.active and time.monotonic() - self._last_block_s < STALL_S:
            return ""
        name = f"the output {printable(self.output)}" if self.output else "the device"
        self.close()
        self.refresh()
        return f"no sound: {name} stopped; play again, or choose another output first"

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

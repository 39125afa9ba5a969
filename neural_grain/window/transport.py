"""What is heard of the open sound, as commands: play and pause, places and loops, versions, volume, output device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from neural_grain.session.playback import Playback
from neural_grain.session.preferences import Preferences
from neural_grain.session.state import Session

if TYPE_CHECKING:
    from neural_grain.window.menus import Entry
    from neural_grain.window.panels import PicturePanel


class Transport:
    """Commands, as methods.

    Parameters
    ----------
    playback : Playback
    panel : PicturePanel, which shows the playhead and the selection
    session : Session, whose status says why there is no sound
    preferences : Preferences
    refresh : called when the state has changed
    """

    def __init__(
        self,
        playback: Playback,
        panel: PicturePanel,
        session: Session,
        preferences: Preferences,
        refresh: Callable[[], None],
    ):
        self._playback, self._panel, self._session = playback, panel, session
        self._preferences, self._refresh = preferences, refresh

    def toggle_play(self) -> None:
        """Play or pause."""
        self._report(self._playback.toggle())

    def choose_output(self, name: str) -> None:
        """Play on another output device, or the default one for an empty name, and remember it."""
        self._preferences.output = name
        self._report(self._playback.choose_output(name))

    def _report(self, fault: str) -> None:
        if fault:
            self._session.set_status(fault, is_error=True)
        self._refresh()

    def output_entries(self) -> list[Entry]:
        """Entries of the menu of output devices, of which the one in use has a mark."""
        from neural_grain.window.menus import Entry

        player = self._playback.player
        player.refresh()
        return [
            Entry(name or "Default device", partial(self.choose_output, name), is_on=name == player.output)
            for name in ("", *player.outputs)
        ]

    def press_compare(self) -> None:
        """Press the key that switches between before and after."""
        self._playback.press_key()

    def release_compare(self) -> None:
        """Release that key."""
        self._playback.release_key()

    def set_volume(self, volume: float) -> None:
        """Set the volume, within 0 to 1, and remember it."""
        self._preferences.volume = volume
        if self._playback.mixer is not None:
            self._playback.mixer.volume = volume

    def reset_clip(self) -> None:
        """Turn the clip light off."""
        self._playback.reset_clip()

    def seek(self, seconds: float) -> None:
        """Continue from another place in the sound."""
        self._playback.seek(seconds)
        self._panel.mark(self._playback.position_s)

    def select(self, selection_s: tuple[float, float] | None) -> None:
        """Select and loop a part of the sound, or nothing."""
        self._panel.selection_s = selection_s
        self._playback.loop(selection_s)
        self._panel.mark(self._playback.position_s)

"""What the user chooses for the open sound: slider, curve, mix and model; undo and redo, the slots, and presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.mix import Mix
from neural_grain.session.models import NamedModel
from neural_grain.session.playback import Playback
from neural_grain.session.preferences import Preferences, Preset
from neural_grain.session.setting import Setting, SettingHistory, Slots
from neural_grain.session.state import Session

if TYPE_CHECKING:
    from neural_grain.window.dialogs import Dialogs
    from neural_grain.window.layout import Layout
    from neural_grain.window.menus import Entry


@dataclass(frozen=True)
class SettingCallbacks:
    """What the commands ask of the window.

    Attributes
    ----------
    dialogs : -> the `Dialogs` to ask with
    moved : something was chosen that is heard
    refresh : the state has changed
    write_preferences : the presets have changed
    """

    dialogs: Callable[[], Dialogs]
    moved: Callable[[], None]
    refresh: Callable[[], None]
    write_preferences: Callable[[], None]


class SettingCommands:
    """The setting in use, and commands that change it, as methods.

    Parameters
    ----------
    layout : Layout, whose slider and lane hold the position and the points of the curve
    session : Session
    playback : Playback, which holds the mix
    preferences : Preferences, which hold the presets
    callbacks : SettingCallbacks

    Attributes
    ----------
    shows_curve : bool, whether the lane of the curve is open
    model : Path or None, in use or asked for; None for the built-in pattern
    slots : Slots
    history : SettingHistory
    """

    def __init__(
        self,
        layout: Layout,
        session: Session,
        playback: Playback,
        preferences: Preferences,
        callbacks: SettingCallbacks,
    ):
        self._layout, self._session, self._playback = layout, session, playback
        self._preferences, self._window = preferences, callbacks
        self._lane, self._slider = layout.lane, layout.octave_slider
        self.shows_curve = False
        self.model = session.model_path
        self.slots = Slots()
        self.history = SettingHistory(self.current)

    @property
    def current(self) -> Setting:
        """What the user has chosen."""
        points, mix = self._lane.editor.points, self._playback.mix
        return Setting(self._slider.octaves, points, self.shows_curve, mix, self.model)

    @property
    def target(self) -> RenderTarget:
        """What is heard and saved: the curve while it is shown and has points, else the position of the slider."""
        curve = self._lane.editor.curve if self.shows_curve else None
        octaves = self._slider.octaves if curve is None else 0.0
        return RenderTarget(octaves, curve=curve, mix=self._playback.mix)

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier setting."""
        return self.history.can_undo or self.current != self.history.current

    def record(self) -> None:
        """Keep the setting in use in the history."""
        self.history.record(self.current)

    def begin_file(self, duration_s: float) -> None:
        """Begin with a sound of some length: the slider at 0 and no curve. Undo brings the setting before back."""
        self.record()
        self._lane.begin(duration_s)
        self.slots = Slots()
        self._window.refresh()  # the slider can't be moved before it is enabled
        self._slider.end_typing()
        self.move_to(0.0)
        self.prepare_curve()

    def prepare_curve(self) -> None:
        """Let the worker prepare curves, if the lane is open."""
        if self.shows_curve:
            self._session.prepare_curve()

    def move_to(self, octaves: float) -> None:
        """Move the slider to a position."""
        self._slider.move_to(octaves)

    def move_by(self, octaves: float) -> None:
        """Move the slider by some octaves."""
        self.move_to(self._slider.octaves + octaves)

    def toggle_curve(self) -> None:
        """Show the curve, which takes the place of the slider, or hide it."""
        self.shows_curve = not self.shows_curve
        self.prepare_curve()
        self._window.refresh()
        self._window.moved()

    def set_mix(self, mix: Mix) -> None:
        """Hear and measure another mix."""
        self._playback.set_mix(mix)
        self._layout.mix_controls.set(mix)
        self._window.moved()

    def use_model(self, path: Path | None) -> None:
        """Use another model, or the built-in pattern for None, while the sound plays on."""
        self.model = path
        self._session.switch_model(path)
        self._window.refresh()

    def apply(self, setting: Setting) -> None:
        """Choose a setting as if by hand, in one step of the history."""
        if setting.points != self._lane.editor.points:
            self._lane.show_points(setting.points)
        if setting.shows_curve != self.shows_curve:
            self.toggle_curve()
        if setting.octaves != self._slider.octaves:
            self._slider.slider.is_enabled = True  # also one that a curve replaces keeps its position
            self.move_to(setting.octaves)
        if setting.mix != self._playback.mix:
            self.set_mix(setting.mix)
        if setting.model != self.model:
            self.use_model(setting.model)
        self._window.refresh()

    def undo(self) -> None:
        """Go back to the setting before."""
        self.record()
        self.apply(self.history.undo())

    def redo(self) -> None:
        """Go to the setting that was undone last."""
        self.apply(self.history.redo())

    def switch_slot(self) -> None:
        """Change between two settings, A and B."""
        self.apply(self.slots.switch(self.current))

    def ask_preset_name(self) -> None:
        """Ask for a name, and keep slider, curve and mix under it."""
        if name := self._window.dialogs().text("Save a preset", "Name of the preset:").strip()[:80]:
            setting = self.current
            mix = setting.mix
            preset = Preset(name, setting.octaves, setting.points, setting.shows_curve, mix.wet, mix.gain_db)
            self._preferences.add_preset(preset)
            self._window.write_preferences()
            self._session.set_status(f"saved the preset {name}")
            self._window.refresh()

    def _use_preset(self, preset: Preset) -> None:
        if self._session.opened is not None:
            mix = Mix(preset.wet, preset.gain_db)
            self.apply(Setting(preset.octaves, preset.points, preset.shows_curve, mix, self.model))

    def _remove_preset(self, preset: Preset) -> None:
        self._preferences.remove_preset(preset.name)
        self._window.write_preferences()

    def preset_entries(self) -> list[Entry]:
        """Entries of the menu of presets: each to use it, and each to remove it."""
        from neural_grain.window.menus import Entry

        presets = self._preferences.presets
        uses = [Entry(each.name, partial(self._use_preset, each)) for each in presets]
        return uses + [Entry(f"Remove {each.name}", partial(self._remove_preset, each)) for each in presets]

    def model_entries(self, models: list[NamedModel]) -> list[Entry]:
        """Entries of the menu of models, of which the one in use has a mark."""
        from neural_grain.window.menus import Entry

        wanted = self.model and self.model.absolute()
        names: dict[Path | None, str] = {None: "Built-in pattern"}
        names |= {model.path.absolute(): model.name for model in models}
        names.setdefault(wanted, str(wanted))  # chosen as a file
        return [Entry(name, partial(self.use_model, path), is_on=path == wanted) for path, name in names.items()]

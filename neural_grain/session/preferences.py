"""What the window remembers between sessions: folder, size, volume, output, colours, axis, recent files and presets.

Preferences are one JSON file in the user's configuration folder. They are a convenience, so a file that is missing
or damaged is no error: every field that is absent, of the wrong type or out of range takes its default, and an item of
a list that is damaged is left out.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.records import parse_record, write_json
from neural_grain.dsp.curve import MAX_POINTS, SLIDER_RANGE, GrainCurve
from neural_grain.dsp.mix import MAX_GAIN_DB, NO_MIX

N_RECENT, N_PRESETS = 10, 100
LENGTHS = {"recent": N_RECENT, "presets": N_PRESETS}  # at most, of the lists in the preferences
MAX_OUTPUT_NAME = 300  # characters
PathText = Annotated[str, Meta(pattern=r"^[^\0]*\Z")]  # no path holds a NUL character


@dataclass(frozen=True)
class Preset:
    """A setting of the slider, the curve and the mix with a name."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]
    octaves: Annotated[float, Meta(ge=-SLIDER_RANGE, le=SLIDER_RANGE)]
    points: Annotated[tuple[tuple[float, float], ...], Meta(max_length=MAX_POINTS)] = ()
    shows_curve: bool = False
    wet: Annotated[float, Meta(ge=0, le=1)] = NO_MIX.wet
    gain_db: Annotated[float, Meta(ge=-MAX_GAIN_DB, le=MAX_GAIN_DB)] = NO_MIX.gain_db

    def __post_init__(self) -> None:
        """Check the points."""
        if self.points:
            GrainCurve(self.points)


@dataclass
class Preferences:
    """Settings that the window changes while it runs and writes when it closes.

    ``geometry`` is "WIDTHxHEIGHT" in pixels, and ``recent`` has the last file first. ``output`` is the name of the output
    device, empty for the default one. ``model`` is the model that the user chose last, empty for none.
    """

    folder: PathText = ""
    model: PathText = ""
    geometry: Annotated[str, Meta(pattern=r"^[0-9]{3,4}x[0-9]{3,4}\Z")] = "1100x680"
    volume: Annotated[float, Meta(ge=0, le=1)] = 1.0
    colours: Literal["system", "light", "dark"] = "system"
    is_log: bool = False
    recent: list[PathText] = field(default_factory=list)
    presets: list[Preset] = field(default_factory=list)
    output: Annotated[str, Meta(max_length=MAX_OUTPUT_NAME)] = ""

    def add_recent(self, path: Path) -> None:
        """Put a file first in the list of recent files, and remember its folder."""
        self.folder = str(path.parent)
        name = str(path.absolute())
        self.recent = [name, *(other for other in self.recent if other != name)][:N_RECENT]

    def add_preset(self, preset: Preset) -> None:
        """Keep a preset, in place of one of the same name."""
        self.remove_preset(preset.name)
        self.presets = sorted([*self.presets[-N_PRESETS + 1 :], preset], key=lambda each: each.name.casefold())

    def remove_preset(self, name: str) -> None:
        """Forget a preset."""
        self.presets = [each for each in self.presets if each.name != name]


def preferences_path() -> Path | None:
    """File in the configuration folder of the platform, such as ~/.config/neural-grain-processor/window.json.

    None for a user without a home, about whom nothing can be remembered.
    """
    from platformdirs import user_config_dir

    with suppress(RuntimeError):
        return Path(user_config_dir("neural-grain-processor", appauthor=False, roaming=True)) / "window.json"
    return None


def data_folder() -> Path | None:
    """Folder of the platform for what the program makes for the user; None for a user without a home."""
    from platformdirs import user_data_dir

    with suppress(RuntimeError):
        return Path(user_data_dir("neural-grain-processor", appauthor=False))
    return None


def read_preferences(path: Path | None) -> Preferences:
    """Read preferences; whatever is missing or damaged takes its default."""
    preferences = Preferences()
    if path is None:
        return preferences
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return preferences
    if isinstance(content, dict):
        for name, kind in get_type_hints(Preferences, include_extras=True).items():
            if name in LENGTHS:
                setattr(preferences, name, _usable_items(kind, content.get(name))[: LENGTHS[name]])
            elif name in content:
                with suppress(PipelineError):
                    setattr(preferences, name, parse_record(kind, content[name], name))
    return preferences


def _usable_items(kind: type, items: object) -> list:
    """The items of a list of this kind that are of the right type and within their range."""
    usable = []
    for item in items if isinstance(items, list) else ():
        with suppress(PipelineError):
            usable += parse_record(kind, [item], "")
    return usable


def write_preferences(path: Path | None, preferences: Preferences) -> None:
    """Write preferences; a folder that cannot be written to must not keep the window from closing."""
    if path is None:
        return
    with suppress(OSError, PipelineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(preferences))

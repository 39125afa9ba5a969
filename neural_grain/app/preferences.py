"""What the window remembers between sessions: folder, size, volume, colours, frequency axis and recent files.

Preferences are one JSON file in the user's configuration folder. They are a convenience, so a file that is missing
or damaged is no error: every field that is absent, of the wrong type or out of range takes its default.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_type_hints

from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.records import parse_record, write_json

N_RECENT = 10
PathText = Annotated[str, Meta(pattern=r"^[^\0]*\Z")]  # no path holds a NUL character


@dataclass
class Preferences:
    """Settings that the window changes while it runs and writes when it closes.

    ``geometry`` is "WIDTHxHEIGHT" in pixels, and ``recent`` has the last file first. ``model`` is the model that the user
    chose last; empty for none.
    """

    folder: PathText = ""
    model: PathText = ""
    geometry: Annotated[str, Meta(pattern=r"^[0-9]{3,4}x[0-9]{3,4}\Z")] = "1100x680"
    volume: Annotated[float, Meta(ge=0, le=1)] = 1.0
    is_dark: bool = False
    is_log: bool = False
    recent: Annotated[list[PathText], Meta(max_length=N_RECENT)] = field(default_factory=list)

    def add_recent(self, path: Path) -> None:
        """Put a file first in the list of recent files, and remember its folder."""
        self.folder = str(path.parent)
        name = str(path.absolute())
        self.recent = [name, *(other for other in self.recent if other != name)][:N_RECENT]


def preferences_path() -> Path | None:
    """File in the configuration folder of the platform, such as ~/.config/neural-grain-processor/window.json.

    None for a user without a home, about whom nothing can be remembered.
    """
    from platformdirs import user_config_dir

    with suppress(RuntimeError):
        return Path(user_config_dir("neural-grain-processor", appauthor=False, roaming=True)) / "window.json"
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
            if name in content:
                with suppress(PipelineError):
                    setattr(preferences, name, parse_record(kind, content[name], f"{path}: {name}"))
    return preferences


def write_preferences(path: Path | None, preferences: Preferences) -> None:
    """Write preferences; a folder that cannot be written to must not keep the window from closing."""
    if path is None:
        return
    with suppress(OSError, PipelineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, vars(preferences))

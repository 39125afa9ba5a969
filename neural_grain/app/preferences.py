"""TODO"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from neural_grain.base.records import write_json

N_RECENT = 10


def preferences_path() -> Path:
    """Where the platform keeps what a program remembers."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "neural-grain-processor" / "window.json"


@dataclass
class Preferences:
    """What the window remembers from one time to the next."""

    folder: str = ""
    geometry: str = "1100x680"
    volume: float = 1.0
    is_dark: bool = False
    is_log: bool = False
    recent: list[str] = field(default_factory=list)


def read_preferences(path: Path) -> Preferences:
    """What was remembered; what is missing or damaged is as at the first time."""
    remembered = Preferences()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return remembered
    for name, value in vars(remembered).items():
        given = content.get(name) if isinstance(content, dict) else None
        if type(given) is type(value):
            setattr(remembered, name, given)
    remembered.recent = [name for name in remembered.recent if isinstance(name, str) and "\0" not in name][:N_RECENT]
    remembered.folder = remembered.folder.replace("\0", "")
    remembered.volume = min(1.0, max(0.0, remembered.volume))
    if not re.fullmatch(r"[0-9]{3,4}x[0-9]{3,4}", remembered.geometry):
        remembered.geometry = Preferences.geometry
    return remembered


def write_preferences(path: Path, remembered: Preferences) -> None:
    """Keep it; a place that can't be written to is no reason to complain."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, vars(remembered))

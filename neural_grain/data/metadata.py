"""TODO"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from neural_grain.base.records import parse_records, read_json, relative_posix, write_json
from neural_grain.dsp.settings import GrainSettings, parse_grain_settings

DEFAULT_FOLDERS = ("Drone", "Harmonic Progression")  # the layout the four stages share
DEFAULT_METADATA = "metadata.json"
METADATA_VERSION = 1
FEW_FILES = 50  # below it the library teaches more about its files than about grain
NARROW_OCTAVES = 1.0  # less between the 10th and 90th percentile: no grain to learn from


@dataclass(frozen=True)
class FileGrain:
    """One measured file of metadata.json. ``path`` is absolute in memory, relative in the JSON."""

    path: Path
    grain: float
    duration_s: float
    sample_rate_hz: int
    channels: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SkippedFile:
    """One file that could not be measured, and why."""

    path: Path
    reason: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Metadata:
    """The contract of stage 1: everything that metadata.json holds, in the order of the search."""

    settings: GrainSettings = field(default_factory=GrainSettings)
    files: tuple[FileGrain, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Write metadata.json; see `Metadata`."""
    folder = Path(os.path.abspath(path)).parent

    def record(item: FileGrain | SkippedFile) -> dict:
        return {**vars(item), "path": relative_posix(item.path, folder)}

    content = {
        "version": METADATA_VERSION,
        "settings": asdict(metadata.settings),
        "files": [record(item) for item in metadata.files],
        "skipped": [record(item) for item in metadata.skipped],
    }
    write_json(path, content)


def read_metadata(path: Path) -> Metadata:
    """Read metadata.json.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    content = read_json(path, METADATA_VERSION, "python measure_audio_grain.py")
    settings = parse_grain_settings(content.get("settings"), f"{path}: settings")
    files = parse_records(FileGrain, content, "files", path)
    return Metadata(settings, files, parse_records(SkippedFile, content, "skipped", path))

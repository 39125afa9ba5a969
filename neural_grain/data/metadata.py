"""The contract between stages 1 and 2: metadata.json, the grain of every file of a library.

The document holds the settings of the measurement, one record for each measured file and one for each
skipped file with the reason, in the order in which the files were found.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp
from neural_grain.base.records import json_record, parse_record, read_json, write_json
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.settings import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, GrainSettings, parse_grain_settings

DEFAULT_FOLDERS = ("Drone", "Harmonic Progression")  # the users' layout
DEFAULT_METADATA = "metadata.json"
METADATA_VERSION = 1
FEW_FILES = 50  # a smaller library teaches a model more about its files than about grain
NARROW_OCTAVES = 1.0  # a library whose 10th and 90th percentiles are closer than this does not show what grain is

GrainValue = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True)
class FileGrain:
    """One measured file. ``path`` is absolute in memory and relative in the JSON."""

    path: Path
    grain: GrainValue
    duration_s: Annotated[float, Meta(gt=0)]
    sample_rate_hz: Annotated[int, Meta(ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ)]
    channels: Annotated[int, Meta(ge=1)]
    size_bytes: Annotated[int, Meta(ge=0)]
    mtime_ns: int


@dataclass(frozen=True)
class SkippedFile:
    """One file that could not be used, and the reason.

    Size and time are -1 if it could not be read at all, so that the next run tries it again.
    """

    path: Path
    reason: str
    size_bytes: Annotated[int, Meta(ge=-1)]
    mtime_ns: int


@dataclass(frozen=True)
class Metadata:
    """Everything that metadata.json holds."""

    settings: GrainSettings = field(default_factory=GrainSettings)
    files: tuple[FileGrain, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def results(self) -> dict[Path, FileGrain | SkippedFile]:
        """Measured and skipped files by path."""
        return {item.path: item for item in (*self.files, *self.skipped)}


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Write metadata.json."""
    folder = Path(os.path.abspath(path)).parent
    content = {
        "version": METADATA_VERSION,
        "settings": asdict(metadata.settings),
        "files": [json_record(item, folder) for item in metadata.files],
        "skipped": [json_record(item, folder) for item in metadata.skipped],
    }
    write_json(path, content)


def read_metadata(path: Path, made_by: str | None = "python measure_audio_grain.py") -> Metadata:
    """Read metadata.json; an error names the file and the field."""
    content = read_json(path, METADATA_VERSION, made_by)
    folder = Path(os.path.abspath(path)).parent
    return Metadata(
        parse_grain_settings(content.get("settings"), f"{path}: settings"),
        parse_record(tuple[FileGrain, ...], content.get("files"), f"{path}: files", folder),
        parse_record(tuple[SkippedFile, ...], content.get("skipped"), f"{path}: skipped", folder),
    )


def count_copies(files: Iterable[FileGrain]) -> int:
    """Number of files that are copies of others: their grain is the same to the last bit, and so is their length."""
    sounds = Counter((item.grain, item.duration_s) for item in files)
    return sounds.total() - len(sounds)


def library_warnings(files: Sequence[FileGrain]) -> list[str]:
    """Reasons why a model would learn little from these files; empty if there are none."""
    warnings = []
    grains, n_copies = [item.grain for item in files], count_copies(files)
    if n_copies:
        warnings.append(f"{n_copies} of the {len(files)} files are copies of others, from which nothing new is learned")
    if len(files) - n_copies < FEW_FILES:
        n_sounds = len(files) - n_copies
        warnings.append(f"only {n_sounds} file{'s' * (n_sounds != 1)}: a model learns better from {FEW_FILES} or more")
    if grain_spread_octaves(grains) < NARROW_OCTAVES:
        warnings.append(
            f"the files hardly differ in grain ({grain_spread_octaves(grains):.2f} octaves between the 10th and "
            "90th percentile): add smoother and grainier sounds"
        )
    return warnings


def is_unchanged(item: FileGrain | SkippedFile) -> bool:
    """True if the audio file is there and has the size and time that the record holds."""
    try:
        return file_stamp(item.path) == (item.size_bytes, item.mtime_ns)
    except PipelineError:
        return False

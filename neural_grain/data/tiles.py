"""TODO"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp, is_inside
from neural_grain.base.records import parse_records, read_json, relative_posix, write_json
from neural_grain.data.metadata import FileGrain, SkippedFile
from neural_grain.dsp.settings import SpectrogramSettings, parse_spectrogram_settings, settings_record

DEFAULT_PAIRS = "training_pairs.json"
PAIRS_VERSION = 1


@dataclass(frozen=True)
class Source:
    """An audio file that tiles were made of. ``path`` is absolute in memory, relative in the JSON."""

    path: Path
    grain: float
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Tile:
    """One tile of training_pairs.json."""

    array: Path
    image: Path | None
    source: Path
    start_s: float
    grain: float


@dataclass(frozen=True)
class TrainingPairs:
    """The contract of stage 2: everything that training_pairs.json holds."""

    settings: SpectrogramSettings
    sources: tuple[Source, ...] = ()
    tiles: tuple[Tile, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


def tile_starts(n_frames: int, tile_frames: int) -> list[int]:
    """First frames of the fewest tiles that cover ``n_frames``, spread evenly, the last one ending at the end."""
    last = max(0, n_frames - tile_frames)
    return [int(start) for start in np.linspace(0, last, -(-n_frames // tile_frames)).round()]


def fill_tile(x: np.ndarray, tile_frames: int) -> np.ndarray:
    """Lengthen a picture (n_mels, frames) to a tile by playing it back and forth: silence would be grain."""
    missing = tile_frames - x.shape[1]
    return np.pad(x, ((0, 0), (0, missing)), mode="symmetric") if missing > 0 else x


def write_pairs(path: Path, pairs: TrainingPairs) -> None:
    """Write training_pairs.json; see `TrainingPairs`."""
    folder = Path(os.path.abspath(path)).parent

    def record(item: Source | Tile | SkippedFile) -> dict:
        return {
            name: relative_posix(value, folder) if isinstance(value, Path) else value
            for name, value in vars(item).items()
        }

    content = {
        "version": PAIRS_VERSION,
        "settings": settings_record(pairs.settings),
        "sources": [record(item) for item in pairs.sources],
        "tiles": [record(item) for item in pairs.tiles],
        "skipped": [record(item) for item in pairs.skipped],
    }
    write_json(path, content)


def read_pairs(path: Path) -> TrainingPairs:
    """Read training_pairs.json.

    Raises
    ------
    PipelineError
        Naming the file and the field that is wrong.
    """
    content = read_json(path, PAIRS_VERSION, "python convert_to_spectrograms.py")
    settings = parse_spectrogram_settings(content.get("settings"), f"{path}: settings")
    tiles = parse_records(Tile, content, "tiles", path)
    sources = parse_records(Source, content, "sources", path)
    _check_tiles(tiles, sources, path)
    return TrainingPairs(settings, sources, tiles, parse_records(SkippedFile, content, "skipped", path))


def _check_tiles(tiles: Iterable[Tile], sources: Iterable[Source], path: Path) -> None:
    """Refuse tiles of other files, and arrays and pictures outside the folder of the JSON file ``path``."""
    folder, named, inside = Path(os.path.abspath(path)).parent, {item.path for item in sources}, set()
    for i, tile in enumerate(tiles):
        for name, place in (("array", tile.array.parent), ("image", tile.image.parent if tile.image else folder)):
            if place not in inside and not is_inside(place, folder):
                raise PipelineError(f"{path}: tiles[{i}]: field {name} is outside the folder of {path.name}")
            inside.add(place)
        if tile.source not in named:
            raise PipelineError(f"{path}: tiles[{i}]: field source is none of the files in sources")
    if unused := named - {tile.source for tile in tiles}:
        raise PipelineError(f"{path}: sources: no tile is of {min(unused)}")


def load_tile(path: Path, settings: SpectrogramSettings) -> np.ndarray:
    """Read one tile, checked: (n_mels, tile_frames) float32 in [0, 1].

    Raises
    ------
    PipelineError
        If the array is missing, damaged or no tile.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("no file of its own")
        x = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a size that is a lie allocates nothing
    except Exception as err:  # a damaged header ends in numpy's, Python's tokenizer's and mmap's own errors
        raise PipelineError(
            f"{path}: not readable as a tile ({str(err)[:200]}); run: python convert_to_spectrograms.py"
        ) from err
    if not isinstance(x, np.ndarray) or x.shape != (settings.n_mels, settings.tile_frames) or x.dtype != np.float32:
        raise PipelineError(
            f"{path}: is no tile of {settings.n_mels} x {settings.tile_frames} float32; delete it and convert again"
        )
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1 + 1e-6):
        raise PipelineError(f"{path}: holds values outside 0 to 1; delete it and convert again")
    return np.array(x)


def check_as_measured(item: FileGrain | Source) -> None:
    """Refuse an audio file that is not, to size and time, the one that stage 1 measured.

    Raises
    ------
    PipelineError
        If it is not.
    """
    if file_stamp(item.path) != (item.size_bytes, item.mtime_ns):
        raise PipelineError("changed since it was measured; run measure_audio_grain.py again")

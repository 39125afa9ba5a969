"""The contract between stages 2 and 3: tiles, and training_pairs.json which lists them.

A tile is a piece of a sound as two log-mel pictures on one scale: NAME.npy shows the whole sound and NAME.texture.npy
its texture. Both are float32, shape (128, 256), mel bands by frames; 1 is the loudest band of the file's whole sound and
0 lies 100 dB below it. The document holds the settings, the audio files that were converted (sources), one record for
each tile, and the skipped files with the reason.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import file_stamp, flush_written_files, is_inside
from neural_grain.base.records import json_record, parse_record, read_json, relative_posix, write_json
from neural_grain.data.metadata import FileGrain, GrainValue, SkippedFile
from neural_grain.dsp.settings import SpectrogramSettings, parse_spectrogram_settings, settings_record

DEFAULT_PAIRS = "training_pairs.json"
PAIRS_VERSION = 2  # 1 had no texture
ARRAYS = "arrays"  # folder inside the output folder of stage 2
IMAGES = "images"
TEXTURE_SUFFIX = ".texture.npy"


@dataclass(frozen=True)
class Source:
    """An audio file that was converted. ``path`` is absolute in memory and relative in the JSON."""

    path: Path
    grain: GrainValue
    size_bytes: Annotated[int, Meta(ge=0)]
    mtime_ns: int


@dataclass(frozen=True)
class Tile:
    """One tile: its two arrays, its image if there is one, and the part of an audio file that it shows."""

    array: Path
    texture: Path
    image: Path | None
    source: Path
    start_s: Annotated[float, Meta(ge=0)]
    grain: GrainValue  # of this part alone
    crest_db: Annotated[float, Meta(ge=0)]  # peak over RMS of the texture's samples; 0 if they are all 0

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that stage 2 writes for the tile."""
        return (self.array, self.texture) + ((self.image,) if self.image else ())


class TilePictures(NamedTuple):
    """The pictures of a tile, shape (n_mels, tile_frames) each, float32, in [0, 1]."""

    whole: np.ndarray
    texture: np.ndarray


@dataclass(frozen=True)
class ConvertedFile:
    """An audio file with its tiles."""

    source: Source
    tiles: tuple[Tile, ...]

    @property
    def path(self) -> Path:
        """The audio file."""
        return self.source.path


@dataclass(frozen=True)
class TrainingPairs:
    """Everything that training_pairs.json holds."""

    settings: SpectrogramSettings
    sources: tuple[Source, ...] = ()
    tiles: tuple[Tile, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    stale: tuple[Path, ...] = ()  # arrays and images that no tile names any more and that may still exist


def tile_starts(n_frames: int, tile_frames: int) -> list[int]:
    """First frames of the fewest tiles that cover ``n_frames``, evenly spaced; the last tile ends at the last frame."""
    last = max(0, n_frames - tile_frames)
    return [int(start) for start in np.linspace(0, last, -(-n_frames // tile_frames)).round()]


def fill_tile(x: np.ndarray, tile_frames: int) -> np.ndarray:
    """Extend a short picture (n_mels, frames) to a whole tile by reflection.

    Reflection continues the texture of the sound; padding with silence would end it.
    """
    missing = tile_frames - x.shape[1]
    return np.pad(x, ((0, 0), (0, missing)), mode="symmetric") if missing > 0 else x


def pairs_from(settings: SpectrogramSettings, results: Iterable[ConvertedFile | SkippedFile]) -> TrainingPairs:
    """Collect the results of many files into one document, in their order."""
    results = list(results)
    converted = [item for item in results if isinstance(item, ConvertedFile)]
    return TrainingPairs(
        settings,
        tuple(item.source for item in converted),
        tuple(tile for item in converted for tile in item.tiles),
        tuple(item for item in results if isinstance(item, SkippedFile)),
    )


def converted_files(pairs: TrainingPairs) -> dict[Path, ConvertedFile]:
    """The converted files of a document with their tiles, by audio file."""
    tiles: dict[Path, list[Tile]] = {source.path: [] for source in pairs.sources}
    for tile in pairs.tiles:
        tiles[tile.source].append(tile)
    return {source.path: ConvertedFile(source, tuple(tiles[source.path])) for source in pairs.sources}


def group_copies(pairs: TrainingPairs) -> list[list[int]]:
    """Indices of the sources, grouped by sound, in the order of grain.

    Files whose grain is the same to the last bit, as a whole and in every tile, hold the same sound: one is a copy of
    the other, perhaps with other tags or in another lossless format.
    """
    tiles: dict[Path, list[tuple[float, float]]] = defaultdict(list)
    for tile in pairs.tiles:
        tiles[tile.source].append((tile.start_s, tile.grain))
    groups: dict[tuple, list[int]] = {}
    for i in sorted(range(len(pairs.sources)), key=lambda i: (pairs.sources[i].grain, pairs.sources[i].path)):
        source = pairs.sources[i]
        groups.setdefault((source.grain, *tiles[source.path]), []).append(i)
    return list(groups.values())


def stale_files(earlier: TrainingPairs, now: TrainingPairs, output_dir: Path) -> tuple[Path, ...]:
    """Arrays and images in ``output_dir`` that an earlier run wrote and ``now`` no longer names."""
    current = {path for tile in now.tiles for path in tile.files}
    written = {path for tile in earlier.tiles for path in tile.files} | set(earlier.stale)
    own_places = ((output_dir / ARRAYS, ".npy"), (output_dir / IMAGES, ".png"))
    return tuple(sorted(path for path in written - current if (path.parent, path.suffix) in own_places))


def replace_pairs(path: Path, pairs: TrainingPairs, earlier: TrainingPairs | None, output_dir: Path) -> None:
    """Write training_pairs.json, and delete the arrays and images that only the earlier document names.

    A kill or a power cut at any moment leaves a document whose tiles exist, and no file that nothing names: new tiles
    are flushed to the disk first, and while files are deleted the new document lists them, for the next run to go on.
    A document that would stay as it is is not written again.
    """
    if pairs == earlier:
        return
    flush_written_files()
    stale = stale_files(earlier, pairs, output_dir) if earlier is not None else ()
    if stale:
        write_pairs(path, replace(pairs, stale=stale))
    for file in stale:
        try:
            file.unlink(missing_ok=True)
        except OSError as err:
            raise PipelineError(f"{file}: can't delete this tile of an earlier run ({err.strerror})") from err
    write_pairs(path, pairs)


def write_pairs(path: Path, pairs: TrainingPairs) -> None:
    """Write training_pairs.json."""
    folder = Path(os.path.abspath(path)).parent
    content = {
        "version": PAIRS_VERSION,
        "settings": settings_record(pairs.settings),
        "sources": [json_record(item, folder) for item in pairs.sources],
        "tiles": [json_record(item, folder) for item in pairs.tiles],
        "skipped": [json_record(item, folder) for item in pairs.skipped],
    }
    if pairs.stale:
        content["stale"] = [relative_posix(file, folder) for file in pairs.stale]
    write_json(path, content)


def read_pairs(path: Path, made_by: str | None = "python convert_to_spectrograms.py") -> TrainingPairs:
    """Read training_pairs.json; an error names the file and the field."""
    content = read_json(path, PAIRS_VERSION, made_by)
    folder = Path(os.path.abspath(path)).parent
    pairs = TrainingPairs(
        parse_spectrogram_settings(content.get("settings"), f"{path}: settings"),
        parse_record(tuple[Source, ...], content.get("sources"), f"{path}: sources", folder),
        parse_record(tuple[Tile, ...], content.get("tiles"), f"{path}: tiles", folder),
        parse_record(tuple[SkippedFile, ...], content.get("skipped"), f"{path}: skipped", folder),
        parse_record(tuple[Path, ...], content.get("stale", []), f"{path}: stale", folder),
    )
    _check_tiles(pairs, path)
    return pairs


def _check_tiles(pairs: TrainingPairs, path: Path) -> None:
    """Refuse arrays and images outside the folder of the document, and tiles and sources without each other."""
    folder = Path(os.path.abspath(path)).parent
    sources = {item.path for item in pairs.sources}
    inside: set[Path] = set()  # folders that were checked: following links is slow, and most tiles share a folder
    for i, tile in enumerate(pairs.tiles):
        for name, file in (("array", tile.array), ("texture", tile.texture), ("image", tile.image)):
            if file is None or file.parent in inside:
                continue
            if not is_inside(file.parent, folder):
                raise PipelineError(f"{path}: tiles[{i}].{name}: is outside the folder of {path.name}")
            inside.add(file.parent)
        if tile.source not in sources:
            raise PipelineError(f"{path}: tiles[{i}].source: is none of the files in sources")
    if unused := sources - {tile.source for tile in pairs.tiles}:
        raise PipelineError(f"{path}: sources: {min(unused)} has no tiles")


def load_tile(tile: Tile, settings: SpectrogramSettings) -> TilePictures:
    """Read both pictures of a tile and check them."""
    return TilePictures(_load_picture(tile.array, settings), _load_picture(tile.texture, settings))


def _load_picture(path: Path, settings: SpectrogramSettings) -> np.ndarray:
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("not a regular file")
        # Mapping the file allocates nothing, whatever size its header claims.
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as err:  # a damaged header raises errors of numpy, of Python's tokenizer or of mmap
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
    """Refuse an audio file whose size or time differs from what stage 1 recorded."""
    if file_stamp(item.path) != (item.size_bytes, item.mtime_ns):
        raise PipelineError("changed since it was measured; run measure_audio_grain.py again")

#!/usr/bin/env python3
"""Stage 2 of the Neural Grain Processor: turn audio files into tiles for training.

A tile is a piece of a sound as two log-mel pictures, 128 mel bands by 256 frames each. One shows the whole sound and
the other its texture (transients and noise, without the tones), on one scale: 1 is the loudest band of the whole sound
in the file, and 0 lies 100 dB below it. Every tile is stored as two arrays, and as one image of both to look at.

Reads: metadata.json and the audio files that it names
Writes: spectrograms/arrays/*.npy, spectrograms/images/*.png, training_pairs.json
Exit status: 0 all files converted; 1 some could not be converted (each is named);
             2 wrong usage or nothing to convert; 130 interrupted

    python convert_to_spectrograms.py
    python convert_to_spectrograms.py --metadata drones.json --no-images
"""

from __future__ import annotations

from neural_grain.base.startup import begin_script

if __name__ == "__main__":
    begin_script()  # nothing has started while packages are imported, so Ctrl-C ends the process at once

import argparse
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from neural_grain.audio.sound import open_sound
from neural_grain.base.cli import (
    add_driver_arguments,
    add_parallel_arguments,
    add_version_argument,
    exit_process,
    exit_status,
    progress_bar,
    run_stage,
    warn,
)
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import (
    Stamp,
    atomic_write,
    check_unchanged,
    file_stamp,
    is_inside,
    prepare_folder,
    run_lock,
)
from neural_grain.base.identity import refuse_inputs
from neural_grain.base.parallel import available_cores, cluster
from neural_grain.base.records import read_earlier, relative_posix
from neural_grain.data.incremental import EarlierRun, Progress, RunCounts, no_progress, process_files
from neural_grain.data.metadata import DEFAULT_METADATA, FileGrain, SkippedFile, read_metadata
from neural_grain.data.pictures import TilePainter
from neural_grain.data.tiles import (
    ARRAYS,
    DEFAULT_PAIRS,
    IMAGES,
    TEXTURE_SUFFIX,
    ConvertedFile,
    Source,
    Tile,
    TilePictures,
    TrainingPairs,
    check_as_measured,
    converted_files,
    fill_tile,
    pairs_from,
    read_pairs,
    replace_pairs,
    tile_starts,
)
from neural_grain.dsp.analysis import BandsAndGrain, bands_and_grain
from neural_grain.dsp.layers import crest_factor_db
from neural_grain.dsp.mel import powers_to_log_mel
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings, default_settings

DEFAULT_OUTPUT_DIR = "spectrograms"
HASH_DIGITS = 16  # of the path of a file, in the names of its tiles: 64 bits
NPY_HEADER_BYTES = 128  # before the numbers of a tile


class ConvertRun(NamedTuple):
    """What `convert_dataset` returns."""

    pairs: TrainingPairs
    counts: RunCounts


def convert_file(
    item: FileGrain, settings: SpectrogramSettings, output_dir: Path, base: Path, painter: TilePainter | None
) -> ConvertedFile | SkippedFile:
    """Write the tiles of one file. A file that can't be converted is returned as skipped, with the reason.

    Parameters
    ----------
    item : the file as stage 1 measured it
    settings : SpectrogramSettings
    output_dir : folder of the arrays and images
    base : folder of training_pairs.json; the names of the tiles depend on the path of the file relative to it
    painter : draws the images; None to write none
    """
    stamp = Stamp(item.size_bytes, item.mtime_ns)
    try:
        stamp = file_stamp(item.path)
        check_as_measured(item)
        sound = open_sound(item.path)
        measured = bands_and_grain(sound, settings)
        check_unchanged(item.path, stamp)
    except PipelineError as err:
        return SkippedFile(item.path, str(err), *stamp)
    whole, texture = _pictures(measured, settings)
    stem = _tile_stem(item.path, base)
    tiles = []
    for start in tile_starts(whole.shape[1], settings.tile_frames):
        frames = slice(start, start + settings.tile_frames)
        if not measured.active[frames].any():
            continue  # only silence, which has no grain
        name = f"{stem}_{start:06d}"
        tile = Tile(
            array=output_dir / ARRAYS / f"{name}.npy",
            texture=output_dir / ARRAYS / f"{name}{TEXTURE_SUFFIX}",
            image=output_dir / IMAGES / f"{name}.png" if painter else None,
            source=item.path,
            start_s=round(start * settings.grain.hop_for(sound.sr) / sound.sr, 6),
            grain=float(measured.flatness[frames][measured.active[frames]].mean(dtype=np.float64)),
            crest_db=_crest_db(measured, settings, sound.sr, frames),
        )
        pictures = (fill_tile(x[:, frames], settings.tile_frames) for x in (whole, texture))
        _write_tile(tile, TilePictures(*pictures), painter)
        tiles.append(tile)
    return ConvertedFile(Source(item.path, item.grain, *stamp), tuple(tiles))


def _pictures(measured: BandsAndGrain, settings: SpectrogramSettings) -> TilePictures:
    """The pictures of a whole file, made of the band powers in place."""
    whole, texture = measured.bands.T, measured.texture.T
    peak = powers_to_log_mel(whole, settings.dynamic_range_db)
    powers_to_log_mel(texture, settings.dynamic_range_db, peak)
    return TilePictures(whole, texture)


def _crest_db(measured: BandsAndGrain, settings: SpectrogramSettings, sr: int, frames: slice) -> float:
    """Crest factor of the texture in all samples that some frames cover."""
    n_fft, hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)
    return crest_factor_db(measured.layers.texture(frames.start * hop_length, (frames.stop - 1) * hop_length + n_fft))


def _tile_stem(path: Path, base: Path) -> str:
    """Start of the names of a file's tiles: readable, portable, and different for every path."""
    readable = re.sub(r"[^\w-]+", "_", path.stem, flags=re.ASCII)[:60]
    return f"{readable}_{hashlib.sha1(os.fsencode(relative_posix(path, base))).hexdigest()[:HASH_DIGITS]}"


def _tile_stems(paths: Iterable[Path], base: Path) -> dict[Path, str]:
    """Start of the names of the tiles of each file; a `PipelineError` if they are the same for two files."""
    stems = {path: _tile_stem(path, base) for path in paths}
    path_of: dict[str, Path] = {}
    for path, stem in stems.items():
        if (other := path_of.setdefault(stem.lower(), path)) != path:  # some file systems ignore case
            raise PipelineError(f"{other} and {path}: their tiles would have the same names; rename one of the files")
    return stems


def _write_tile(tile: Tile, pictures: TilePictures, painter: TilePainter | None) -> None:
    for path, x in zip((tile.array, tile.texture), pictures, strict=True):
        with atomic_write(path, flush=False) as temporary, temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(x), allow_pickle=False)
    if painter:
        title = f"{printable(tile.source.name)[:60]}, {tile.start_s:.1f} s: grain {tile.grain:.2e}"
        painter.save(tile.image, pictures, title)


def convert_dataset(
    files: Iterable[FileGrain],
    grain: GrainSettings,
    earlier: TrainingPairs | None = None,
    *,
    output_dir: Path,
    base: Path,
    images: bool = True,
    jobs: int = 1,
    progress: Progress = no_progress,
    rescue: Callable[[TrainingPairs], None] = lambda pairs: None,
) -> ConvertRun:
    """Convert all files, except those that an earlier run converted and that are unchanged.

    Parameters
    ----------
    files : what stage 1 measured
    grain : the settings that it measured with
    earlier : what an earlier run wrote
    output_dir : folder of the arrays and images
    base : folder of training_pairs.json; the names of the tiles depend on the paths relative to it
    images : False to write no images
    jobs : int >= 1, threads; see `cluster` for several machines
    progress : wraps the results, for a progress bar
    rescue : called on Ctrl-C with what is converted so far and what an earlier run made of the other files
    """
    settings = default_settings(grain)
    output_dir = Path(os.path.abspath(output_dir))
    items = {item.path: item for item in files}
    before = _earlier_run(earlier, settings, items, output_dir / ARRAYS, _tile_stems(items, base), images)
    painter = TilePainter(settings) if images and len(before.current) < len(items) else None
    run = process_files(
        partial(convert_file, settings=settings, output_dir=output_dir, base=base, painter=painter),
        items,
        before,
        size_bytes=lambda item: item.size_bytes,
        jobs=jobs,
        progress=progress,
        rescue=lambda results: rescue(pairs_from(settings, results)),
    )
    return ConvertRun(pairs_from(settings, run.results), run.counts)


def _earlier_run(
    earlier: TrainingPairs | None,
    settings: SpectrogramSettings,
    items: dict[Path, FileGrain],
    arrays: Path,
    stems: dict[Path, str],
    images: bool,
) -> EarlierRun[ConvertedFile]:
    """What can be kept of an earlier run: whole tiles of unchanged files, named as this run would name them."""
    if earlier is None:
        return EarlierRun()
    converted = converted_files(earlier)

    tile_bytes = NPY_HEADER_BYTES + 4 * settings.n_mels * settings.tile_frames

    def is_good(tile: Tile) -> bool:
        named = tile.array.parent, tile.array.stem.rpartition("_")[0], tile.texture
        is_in_place = named == (arrays, stems[tile.source], tile.array.with_suffix(TEXTURE_SUFFIX))
        are_whole = all(_size_bytes(path) == tile_bytes for path in (tile.array, tile.texture))
        has_image = tile.image is not None and _size_bytes(tile.image) > 0
        return is_in_place and are_whole and (has_image or not images)

    def is_current(file: ConvertedFile) -> bool:
        source, item = file.source, items.get(file.path)
        is_same = item and (item.size_bytes, item.mtime_ns) == (source.size_bytes, source.mtime_ns)
        return bool(is_same and file.tiles) and all(map(is_good, file.tiles))

    usable = converted if earlier.settings == settings else {}
    return EarlierRun(frozenset(converted), usable, {path: file for path, file in usable.items() if is_current(file)})


def _size_bytes(path: Path) -> int:
    """Size of a file; 0 if it is missing or can't be looked up."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of stage 2."""
    parser = argparse.ArgumentParser(
        prog="convert_to_spectrograms.py",
        description="Turn the measured files into mel tiles with pictures, and write training_pairs.json.",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        default=Path(DEFAULT_METADATA),
        metavar="FILE",
        help="what stage 1 wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_OUTPUT_DIR),
        metavar="FOLDER",
        help="gets arrays/ and images/ (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs", type=Path, default=Path(DEFAULT_PAIRS), metavar="FILE", help="what to write (default: %(default)s)"
    )
    add_parallel_arguments(parser, available_cores())
    add_driver_arguments(parser)
    add_version_argument(parser)
    parser.add_argument("--no-images", action="store_true", help="leave out the pictures")
    return parser


def _run(args: argparse.Namespace) -> int:
    metadata = read_metadata(args.metadata)
    if not metadata.files:
        raise PipelineError(f"{args.metadata}: names no measured file; run: python measure_audio_grain.py")
    if not all(is_inside(args.output_dir / part, args.pairs.absolute().parent) for part in (ARRAYS, IMAGES)):
        raise PipelineError(
            f"{args.output_dir}: is outside the folder of {args.pairs}, which can only name files below it; "
            "put both into one folder: --output-dir FOLDER/spectrograms --pairs FOLDER/training_pairs.json"
        )
    refuse_inputs([args.pairs], [args.metadata, *(item.path for item in metadata.files)])
    for folder in (args.output_dir / ARRAYS, args.output_dir / IMAGES, args.pairs.parent):
        prepare_folder(folder)
    with run_lock(args.pairs), cluster(args.dask):
        earlier = read_earlier(read_pairs, args.pairs, warn)
        save = partial(replace_pairs, args.pairs, earlier=earlier, output_dir=Path(os.path.abspath(args.output_dir)))
        pairs, counts = convert_dataset(
            metadata.files,
            metadata.settings,
            earlier,
            output_dir=args.output_dir,
            base=Path(os.path.abspath(args.pairs)).parent,
            images=not args.no_images,
            jobs=args.jobs,
            progress=progress_bar("converting", as_lines=args.progress == "lines"),
            rescue=save,
        )
        save(pairs)
    for item in pairs.skipped:
        warn(f"{printable(item.path)}: {item.reason}")
    print(f"{counts.processed} converted, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not pairs.tiles:
        raise PipelineError(f"none of the {len(pairs.skipped)} files could be converted; each is named above")
    print(f"wrote {args.pairs}: {len(pairs.tiles)} tiles of {len(pairs.sources)} files, {len(pairs.skipped)} skipped")
    print(f"      {args.output_dir / ARRAYS}" + ("" if args.no_images else f" and {args.output_dir / IMAGES}"))
    option = "" if args.pairs == Path(DEFAULT_PAIRS) else f" --pairs {str(args.pairs)!r}"
    print(f"next: python cak_grain_processor.py{option}")
    return 1 if pairs.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 2 from the command line and return the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args), end_with_stdin=args.end_with_stdin)


def command() -> NoReturn:
    """Run stage 2 as an installed command."""
    exit_process(exit_status(main))


if __name__ == "__main__":
    command()

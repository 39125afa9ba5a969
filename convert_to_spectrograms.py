#!/usr/bin/env python3
"""Turn audio into mel tiles, and a pattern of gains back into audio: stage 2 of the Neural Grain Processor.

Forth: every file becomes tiles of 128 mel bands x 256 frames, x = 0 at the floor and 1 in
the file's loudest band, 100 dB between. Back: a pattern q (one gain per band and frame for
unit amount), the amount u of it that gives the grain asked for, and the complex STFT
multiplied with the gains, so that the original phase stays:

    P'[t, k] = P[t, k] 10**(u q[t, k] / 10) e[t],   e[t] holds the energy around t

ln flatness of a frame is linear in u minus a log-sum-exp of u, hence concave: the amount
that gives a grain is unique between the start and the peak, and a root-finder finds it. Gains
are smooth in time; where a sound begins, what is new gets them with minimum phase. Two limits
keep texture musical: no band rises above the loudest of its time, and peaks beyond full scale
are turned down. What all that and overlapping frames do to grain is measured on the real output
and corrected.

Reads:  metadata.json and the audio files that it names
Writes: spectrograms/arrays/*.npy, spectrograms/images/*.png, training_pairs.json
Exit status: 0 all files converted; 1 some could not be (each is named);
             2 wrong usage or nothing to convert; 130 interrupted

    python convert_to_spectrograms.py
    python convert_to_spectrograms.py --metadata drones.json --no-images
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from neural_grain.audio.sound import open_sound
from neural_grain.base.cli import add_parallel_arguments, exit_process, progress_bar, run_stage, warn
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import atomic_write, check_unchanged, file_stamp, is_inside, prepare_folder, run_lock
from neural_grain.base.parallel import cluster, map_unordered
from neural_grain.base.records import relative_posix
from neural_grain.data.metadata import DEFAULT_METADATA, FileGrain, SkippedFile, read_metadata
from neural_grain.data.pictures import TilePainter
from neural_grain.data.tiles import (
    DEFAULT_PAIRS,
    Source,
    Tile,
    TrainingPairs,
    check_as_measured,
    fill_tile,
    read_pairs,
    tile_starts,
    write_pairs,
)
from neural_grain.dsp.analysis import bands_and_grain
from neural_grain.dsp.mel import powers_to_log_mel
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings, default_settings

DEFAULT_OUTPUT_DIR = "spectrograms"


def convert_file(
    item: FileGrain, settings: SpectrogramSettings, output_dir: Path, base: Path, painter: TilePainter | None
) -> tuple[Source, list[Tile]] | SkippedFile:
    """Write the tiles (and pictures) of one file; a file that fails comes back as skipped, with the reason."""
    size_bytes, mtime_ns = item.size_bytes, item.mtime_ns
    try:
        size_bytes, mtime_ns = file_stamp(item.path)
        check_as_measured(item)
        sound = open_sound(item.path)
        bands, flatness, active = bands_and_grain(sound, settings)
        check_unchanged(item.path, (size_bytes, mtime_ns))
    except PipelineError as err:
        return SkippedFile(item.path, str(err), size_bytes, mtime_ns)
    x = bands.T
    powers_to_log_mel(x, settings.dynamic_range_db)
    hop_s = settings.grain.hop_for(sound.sr) / sound.sr
    source = relative_posix(item.path, base)
    stem = (
        re.sub(r"[^\w-]+", "_", item.path.stem, flags=re.ASCII)[:60]
        + "_"
        + hashlib.sha1(os.fsencode(source)).hexdigest()[:8]
    )
    tiles = []
    for start in tile_starts(x.shape[1], settings.tile_frames):
        span = slice(start, start + settings.tile_frames)
        if not active[span].any():
            continue  # silence inside the file
        name = f"{stem}_{start:06d}"
        tile = Tile(
            output_dir / "arrays" / f"{name}.npy",
            output_dir / "images" / f"{name}.png" if painter else None,
            item.path,
            round(start * hop_s, 6),
            float(flatness[span][active[span]].mean(dtype=np.float64)),
        )
        picture = np.ascontiguousarray(fill_tile(x[:, span], settings.tile_frames))
        with atomic_write(tile.array) as temporary, temporary.open("wb") as file:
            np.save(file, picture, allow_pickle=False)
        if painter:
            painter.save(
                tile.image, picture, f"{printable(item.path.name)[:60]}, {tile.start_s:.1f} s: grain {tile.grain:.2e}"
            )
        tiles.append(tile)
    return Source(item.path, item.grain, size_bytes, mtime_ns), tiles


@dataclass(frozen=True)
class ConvertCounts:
    """What a run did, in files."""

    converted: int
    unchanged: int
    gone: int


def convert_dataset(
    files: Iterable[FileGrain],
    grain: GrainSettings,
    earlier: TrainingPairs | None = None,
    *,
    output_dir: Path,
    base: Path,
    images: bool = True,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    rescue: Callable[[TrainingPairs], None] = lambda pairs: None,
) -> tuple[TrainingPairs, ConvertCounts]:
    """Make the tiles of all files; those that an earlier run made of an unchanged file are kept.

    Parameters
    ----------
    files : what stage 1 measured
    grain : how it measured
    earlier : what an earlier run wrote: only what it names is ever removed
    output_dir : gets arrays/ and images/
    base : folder of training_pairs.json, which tile names are made from
    rescue : gets what is converted so far, and what an earlier run made of the rest, when the run is interrupted

    Raises
    ------
    PipelineError
        If nothing could be converted.
    """
    settings = default_settings(grain)
    output_dir = Path(os.path.abspath(output_dir))
    made = _tiles_still_good(earlier, settings, output_dir, images)
    files = list(files)
    kept = {item.path: made[key] for item in files if (key := (item.path, item.size_bytes, item.mtime_ns)) in made}
    wanted = [item for item in files if item.path not in kept]
    wanted.sort(key=lambda item: item.size_bytes, reverse=True)  # as in stage 1
    painter = TilePainter(settings) if images and wanted else None
    convert = partial(convert_file, settings=settings, output_dir=output_dir, base=base, painter=painter)
    results = {}

    def pairs_of(items: Iterable[tuple[Source, list[Tile]] | SkippedFile]) -> TrainingPairs:
        items = list(items)
        done = [item for item in items if not isinstance(item, SkippedFile)]
        return TrainingPairs(
            settings,
            tuple(source for source, _ in done),
            tuple(tile for _, tiles in done for tile in tiles),
            tuple(item for item in items if isinstance(item, SkippedFile)),
        )

    try:
        for item, result in progress(map_unordered(convert, wanted, jobs), len(wanted)):
            results[item.path] = result
    except KeyboardInterrupt:
        if results:
            same = earlier is not None and earlier.settings == settings
            pairs = pairs_of(((_by_source(earlier) if same else {}) | results).values())
            if earlier is not None:
                _remove_stale(earlier, pairs, output_dir)
            rescue(pairs)
        raise
    results |= kept
    pairs = pairs_of(results[item.path] for item in files)
    gone = 0
    if earlier is not None:
        _remove_stale(earlier, pairs, output_dir)
        gone = len({item.path for item in earlier.sources} - {item.path for item in pairs.sources})
    return pairs, ConvertCounts(len(wanted), len(kept), gone)


def _tiles_still_good(
    earlier: TrainingPairs | None, settings: SpectrogramSettings, output_dir: Path, images: bool
) -> dict[tuple[Path, int, int], tuple[Source, list[Tile]]]:
    """What can be kept of an earlier run, by path, size and mtime of the source."""
    if earlier is None or earlier.settings != settings:
        return {}

    def is_good(tile: Tile) -> bool:
        has_image = tile.image is not None and os.path.exists(tile.image)
        return tile.array.parent == output_dir / "arrays" and os.path.exists(tile.array) and (has_image or not images)

    return {
        (source.path, source.size_bytes, source.mtime_ns): (source, tiles)
        for source, tiles in _by_source(earlier).values()
        if tiles and all(map(is_good, tiles))
    }


def _by_source(pairs: TrainingPairs) -> dict[Path, tuple[Source, list[Tile]]]:
    found: dict[Path, tuple[Source, list[Tile]]] = {source.path: (source, []) for source in pairs.sources}
    for tile in pairs.tiles:
        if tile.source in found:
            found[tile.source][1].append(tile)
    return found


def _remove_stale(earlier: TrainingPairs, now: TrainingPairs, output_dir: Path) -> None:
    """Remove arrays and pictures that an earlier run wrote into ``output_dir`` and this one does not name."""
    current = {path for tile in now.tiles for path in (tile.array, tile.image)}
    for tile in earlier.tiles:
        for path, folder, suffix in ((tile.array, "arrays", ".npy"), (tile.image, "images", ".png")):
            if path and path not in current and path.parent == output_dir / folder and path.suffix == suffix:
                path.unlink(missing_ok=True)


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 2."""
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
    add_parallel_arguments(parser, os.cpu_count() or 1)
    parser.add_argument("--no-images", action="store_true", help="leave out the pictures")
    return parser


def _run(args: argparse.Namespace) -> int:
    metadata = read_metadata(args.metadata)
    if not metadata.files:
        raise PipelineError(f"{args.metadata}: names no measured file; run: python measure_audio_grain.py")
    if not all(is_inside(args.output_dir / part, args.pairs.absolute().parent) for part in ("arrays", "images")):
        raise PipelineError(
            f"{args.output_dir}: is outside the folder of {args.pairs}, which may name nothing there; "
            "put both into one folder: --output-dir FOLDER/spectrograms --pairs FOLDER/training_pairs.json"
        )
    for folder in (args.output_dir / "arrays", args.output_dir / "images", args.pairs.parent):
        prepare_folder(folder)
    with run_lock(args.pairs), cluster(args.dask):
        earlier = read_pairs(args.pairs) if args.pairs.exists() else None
        pairs, counts = convert_dataset(
            metadata.files,
            metadata.settings,
            earlier,
            output_dir=args.output_dir,
            base=Path(os.path.abspath(args.pairs)).parent,
            images=not args.no_images,
            jobs=args.jobs,
            progress=progress_bar("converting"),
            rescue=lambda pairs: write_pairs(args.pairs, pairs),
        )
        write_pairs(args.pairs, pairs)
    for item in pairs.skipped:
        warn(f"{printable(item.path)}: {item.reason}")
    print(f"{counts.converted} converted, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not pairs.tiles:
        raise PipelineError(f"none of the {len(pairs.skipped)} files could be converted; each is named above")
    print(f"wrote {args.pairs}: {len(pairs.tiles)} tiles of {len(pairs.sources)} files, {len(pairs.skipped)} skipped")
    print(f"      {args.output_dir / 'arrays'}" + ("" if args.no_images else f" and {args.output_dir / 'images'}"))
    option = "" if args.pairs == Path(DEFAULT_PAIRS) else f" --pairs {str(args.pairs)!r}"
    print(f"next: python cak_grain_processor.py{option}")
    return 1 if pairs.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 2 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args))


if __name__ == "__main__":
    exit_process(main())

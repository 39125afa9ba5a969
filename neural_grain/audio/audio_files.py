"""Audio files in folders: which are found, and which are audio that can't be read.

In: files and folders that the user names. Out: paths, and a line for each format that can't be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from neural_grain.base.errors import PipelineError, printable

AUDIO_EXTENSIONS = frozenset((
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".caf",
    ".au", ".snd",
))  # fmt: skip
#: Extensions of common audio formats that libsndfile can't decode. Such files are reported and left out.
UNREADABLE_EXTENSIONS = frozenset((
    ".m4a", ".m4b", ".m4p", ".aac", ".wma", ".ape", ".wv", ".tta", ".mpc", ".mka", ".ac3", ".dts", ".dsf", ".dff", ".amr",
    ".ra", ".spx", ".shn", ".weba", ".adts", ".eac3", ".tak", ".ofr",
))  # fmt: skip
NAMED_FILES = 10  # of one format that can't be read; a long list would hide what else is reported


def find_audio(paths: Iterable[Path], extensions: frozenset[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """Find the audio files in folders and their subfolders, sorted within each folder and without duplicates.

    A file that is named itself is always included, whatever its extension. Hidden files and folders are left out.
    Symbolic links are followed, but no folder is searched twice, so a loop of links ends. What can't be read, such as a
    broken link or a folder without permission, is included as well, so that opening it reports the reason.
    """
    found: dict[Path, None] = {}  # a dict is an ordered set
    searched: set[tuple[int, int]] = set()
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            if is_folder:
                os.scandir(path).close()
        except FileNotFoundError as err:
            raise PipelineError(f"{path}: no such file or folder") from err
        except OSError as err:
            raise PipelineError(f"{path}: not readable ({err.strerror})") from err
        if is_folder:
            found.update(dict.fromkeys(_search_folder(path, extensions, searched)))
        else:
            found[Path(os.path.abspath(path))] = None
    return list(found)


def _search_folder(root: Path, extensions: frozenset[str], searched: set[tuple[int, int]]) -> Iterator[Path]:
    """Audio files below a folder, then the folders that can't be read.

    ``searched`` holds the device and inode of every folder searched so far.
    """
    unreadable: list[str] = []
    walk = os.walk(os.path.abspath(root), onerror=lambda err: unreadable.append(err.filename), followlinks=True)
    for folder, subfolders, names in walk:
        try:
            status = os.stat(folder)
        except OSError:  # it was removed after its name was read
            subfolders.clear()
            continue
        identity = status.st_dev, status.st_ino
        if identity in searched:
            subfolders.clear()
            continue
        searched.add(identity)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions:
                yield Path(folder, name)
    yield from map(Path, unreadable)


def unreadable_formats(paths: Iterable[Path]) -> list[str]:
    """Find audio below folders in formats that can't be read; returns a line for each format."""
    names_of: dict[str, list[str]] = {}
    for path in find_audio(filter(Path.is_dir, paths), UNREADABLE_EXTENSIONS):
        if (extension := path.suffix.lower()) in UNREADABLE_EXTENSIONS:  # else it is a folder that can't be read
            names_of.setdefault(extension, []).append(printable(path.name))
    return [
        f"{extension} can't be read, left out: {', '.join(names[:NAMED_FILES])}"
        f"{f' and {len(names) - NAMED_FILES} more' if len(names) > NAMED_FILES else ''}; convert to WAV or FLAC first"
        for extension, names in sorted(names_of.items())
    ]

"""A cache folder for matplotlib where the user has no home, or one that can't be written to.

Containers often run as a user without a name or a home. There matplotlib prints a warning and leaves a folder behind at
each run.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from neural_grain.base.errors import PipelineError

VARIABLE = "MPLCONFIGDIR"  # names the folder for caches and settings of matplotlib


def provide_cache_folder() -> None:
    """Set the cache folder of matplotlib, before it is imported, where its own can't be written to.

    Raises
    ------
    PipelineError
        If there is no folder for temporary files either.
    """
    given = os.environ.get(VARIABLE)
    folders = [os.path.abspath(given)] if given else _default_folders()
    if not folders or not all(map(_can_be_written, folders)):
        os.environ[VARIABLE] = str(_temporary_folder() / "matplotlib")


def _default_folders() -> list[str]:
    """Where matplotlib keeps its caches and settings by default; nothing if there is no home."""
    from platformdirs import user_cache_dir, user_config_dir

    try:
        return [user_cache_dir("matplotlib", appauthor=False), user_config_dir("matplotlib", appauthor=False)]
    except RuntimeError:  # the user is unknown, and HOME is not set
        return []


def _can_be_written(folder: str) -> bool:
    """Whether a folder, given by its absolute path, is writable or can be created."""
    while not os.path.lexists(folder):
        folder, below = os.path.dirname(folder), folder
        if folder == below:  # a drive of Windows that is not there
            return False
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    """A folder that is the same in every run and belongs to this user alone."""
    try:
        folder = Path(tempfile.gettempdir(), f"neural-grain-{os.getuid() if hasattr(os, 'getuid') else ''}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        is_own = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)
        return folder if stat.S_ISDIR(status.st_mode) and is_own else Path(tempfile.mkdtemp(prefix="neural-grain-"))
    except OSError as err:
        raise PipelineError("no folder for temporary files can be written to; set TMPDIR to one that can") from err

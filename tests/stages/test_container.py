"""All commands in a container: a user without a name and a home, who may write into the current folder alone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, write_library
from gui.driving import virtual_screen

from neural_grain.session.preferences import Preferences, read_preferences, write_preferences

UNKNOWN_USER = 54_321
PACKAGES = sysconfig.get_paths()["purelib"]
#: Stage 4 with a window that closes itself when it is complete.
SHORT_WINDOW = (
    "from neural_grain.window.window import GrainWindow; GrainWindow._poll = GrainWindow.close\n"
    "import neural_audio_processor as stage; stage.command()"
)


@dataclass(frozen=True)
class Container:
    """A folder that everybody may write to, and a copy of the program that only its owner may change."""

    folder: Path
    program: Path
    python: str
    temporary: Path

    def run(self, home: dict[str, str], *args: object, **variables: str) -> subprocess.CompletedProcess:
        """Run Python as a user that the system does not know."""
        paths = (self.program, self.program / "tests", PACKAGES)
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
            **home,
            **variables,
        }
        return subprocess.run(
            [self.python, *map(str, args)], cwd=self.folder, env=env, capture_output=True, text=True, timeout=300,
            user=UNKNOWN_USER, group=UNKNOWN_USER, extra_groups=[], check=False,
        )  # fmt: skip

    def script(self, name: str) -> Path:
        return self.program / name


def python_for_everybody() -> str:
    """A Python of this version that any user may run with our packages."""
    candidates = (sys.executable, shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin"))
    for python in filter(None, candidates):
        try:
            subprocess.run(
                [python, "-c", "import numpy, msgspec"], env={"PYTHONPATH": PACKAGES}, user=UNKNOWN_USER, extra_groups=[],
                check=True, capture_output=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python of this version may be run by every user")


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    python = python_for_everybody()
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that other users may not search
        place = Path(name)
        for folder in ("work", "program", "tmp"):
            (place / folder).mkdir()
        for script in ROOT.glob("*.py"):
            shutil.copy(script, place / "program")
        for package in ("neural_grain", "tests"):
            shutil.copytree(ROOT / package, place / "program" / package)
        write_library(place / "work", 4, 1.0)
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (place / "work").chmod(0o777)
        (place / "tmp").chmod(0o777)
        yield Container(place / "work", place / "program", python, place / "tmp")


#: HOME is not set; or it names a folder that this user may not write to, which only the caches of packages notice.
HOMES = {"no home": ({}, ()), "a home without permission": ({"HOME": "/"}, ("learn", "render"))}


@pytest.mark.parametrize(("home", "left_out"), HOMES.values(), ids=HOMES)
def test_all_stages_and_the_window_run_and_say_no_more_than_elsewhere(container, home, left_out):
    stages = {
        "measure": (container.script("measure_audio_grain.py"),),
        "convert": (container.script("convert_to_spectrograms.py"),),
        "learn": (container.script("cak_grain_processor.py"), "--epochs", 1, "--device", "cpu"),
        "render": (container.script("neural_audio_processor.py"), "Drone", "--grain", -1, "-o", "out/"),
        "window": ("-c", SHORT_WINDOW),
    }
    with virtual_screen("1280x900", 96) as display:
        done_stages = {
            name: container.run(home, *args, DISPLAY=display) for name, args in stages.items() if name not in left_out
        }
    for name, done in done_stages.items():
        assert done.returncode == 0, (name, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        expected = ("warning: only 4 files", "training on 4 tiles of 4 files")
        assert all(line.startswith(expected) or "%|" in line for line in lines), (name, lines)
    made = {"metadata.json", "spectrograms", "training_pairs.json"}
    made |= set() if left_out else {"grain_processor_v2_output", "out"}
    assert {path.name for path in container.folder.iterdir()} == {"Drone", "Harmonic Progression"} | made
    assert not list(container.temporary.glob("matplotlib*"))
    for path in container.folder.iterdir():  # so that the next home starts again
        if path.name not in ("Drone", "Harmonic Progression"):
            (shutil.rmtree if path.is_dir() else os.unlink)(path)


def test_a_cache_folder_that_somebody_else_has_prepared_is_not_used(container):
    """Fonts are looked up in it, and settings."""
    foreign = container.temporary / f"neural-grain-{UNKNOWN_USER}"
    shutil.rmtree(foreign, ignore_errors=True)
    foreign.mkdir(mode=0o777)
    try:
        done = container.run(
            {"HOME": "/"}, "-c",
            "import os; from neural_grain.base.caches import provide_cache_folder as provide; provide()\n"
            "print(os.environ['MPLCONFIGDIR'])",
        )  # fmt: skip
        folder = Path(done.stdout.strip()).parent
        assert folder != foreign, done.stderr
        assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (UNKNOWN_USER, 0o700)
    finally:
        shutil.rmtree(container.temporary)
        container.temporary.mkdir()
        container.temporary.chmod(0o777)


def test_without_any_writable_folder_for_temporary_files_the_reason_is_one_line(container):
    code = (
        "import os, tempfile; from neural_grain.base.cli import run_stage; from neural_grain.base.caches import *\n"
        "os.chdir('/'); tempfile._candidate_tempdir_list = lambda: ['/']\n"
        "raise SystemExit(run_stage(provide_cache_folder))"
    )
    done = container.run({}, "-c", code)
    assert done.returncode == 2
    assert done.stderr == "error: no folder for temporary files can be written to; set TMPDIR to one that can\n"


def test_preferences_without_a_file_are_the_defaults_and_writing_them_does_nothing():
    write_preferences(None, Preferences(volume=0.5))
    assert read_preferences(None) == Preferences()

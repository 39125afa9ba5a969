"""`pip install .` installs the package and the four commands, which work outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

COMMANDS = ("measure-audio-grain", "convert-to-spectrograms", "cak-grain-processor", "neural-audio-processor")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the project was installed, its dependencies taken from the running environment."""
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "build", "*.egg-info", "spectrograms", "*_output")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)  # pip writes build/ into the source
    install = ["install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", folder / "lib"]
    subprocess.run([sys.executable, "-m", "pip", *install, folder / "source"], check=True, capture_output=True)
    return folder / "lib"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_installed_command_runs_and_names_its_version(installed, tmp_path, command):
    done = subprocess.run(
        [sys.executable, installed / "bin" / command, "--version"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith(" 2.0.0\n")
    assert done.stderr == ""


def test_the_window_finds_the_installed_stages(installed, tmp_path):
    program = (
        "from neural_grain.session.learning import STAGES\n"
        "from neural_grain.session.stage_process import find_script\n"
        "print(*(find_script(stage.script) for stage in STAGES))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = ("measure_audio_grain.py", "convert_to_spectrograms.py", "cak_grain_processor.py")
    assert done.stdout.split() == [str((installed / name).resolve()) for name in names]


def test_the_installed_package_holds_every_module(installed):
    def modules(root):
        return {path.relative_to(root) for path in (root / "neural_grain").rglob("*.py")}

    assert modules(installed) == modules(ROOT)


def test_the_installed_project_names_the_dependencies_of_requirements_txt(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    named = {
        line.removeprefix("Requires-Dist: ") for line in metadata.read_text().splitlines() if "Requires-Dist" in line
    }
    assert named == set((ROOT / "requirements.txt").read_text().split())

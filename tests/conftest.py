"""Synthesised audio, the four scripts as commands, and one small trained model for all tests."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

# Before anything that starts threads: on products this small a second one gains nothing, and where the cores are
# shared the two wait for each other (seen: a training fifteen times slower).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Coverage is measured in the processes of the tests. The commands that these start would take half as long again, and
# run little that no test runs in its own process.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

import numpy as np
import pytest
import soundfile as sf
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
SR = 44_100
MAKES_SHARED = "test_cak_grain_processor.py"
SHARED = {"converted", "project", "short_run"}  # fixtures that all processes share and that take long to make
SLOW_FIRST = ("stages", "gui", "session", "learn", "data", "app", "golden", "dsp")  # folders of tests
PROJECT_EPOCHS = 3  # of the model that most tests share: after them every test of it has a wide margin


def sine(hz: float = 440.0, duration_s: float = 2.0, sr: int = SR, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(duration_s * sr)) / sr)


def noise(duration_s: float = 2.0, sr: int = SR, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(round(duration_s * sr))


def drone(
    texture_db: float = -40.0, duration_s: float = 3.0, sr: int = SR, seed: int = 0, root_hz: float = 110.0
) -> np.ndarray:
    """Eight partials and white noise: the texture's level decides the grain."""
    y = sum(sine(root_hz * k, duration_s, sr, 0.3 / k) for k in range(1, 9))
    return y + noise(duration_s, sr, seed, 0.3 * 10 ** (texture_db / 20))


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


def run(script: str, *args: object, cwd: Path, env: dict | None = None, timeout: float = 300) -> Ran:
    """One of the four scripts as a user runs it. A traceback fails the test, whatever it tests."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def call(script: str, *args: object, cwd: Path, env: dict | None = None) -> Ran:
    """The same in this process, which saves the start of another one: for claims that are not about the process."""
    main = importlib.import_module(script.removesuffix(".py")).main
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd),
        warnings.catch_warnings(record=True) as shown,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [script])  # what usage errors call the program
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as exit_:
            status = exit_.code
    assert not shown, [str(each.message) for each in shown]  # a user would see them
    return Ran(status, out.getvalue(), err.getvalue())


def write_library(folder: Path, n_files: int = 12, duration_s: float = 3.0) -> Path:
    """A library in the users' layout: drones whose texture rises file by file."""
    for i, texture_db in enumerate(np.linspace(-75, -15, n_files)):
        place = folder / ("Drone/Static", "Drone/Evolving", "Harmonic Progression")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        sf.write(place / f"sound {i:02d}.wav", drone(texture_db, duration_s, seed=i, root_hz=80 + 13 * i), SR, "PCM_16")
    return folder


@dataclass(frozen=True)
class Project:
    """A folder in which the first stages have run, and what they printed."""

    folder: Path
    ran: tuple[Ran, ...]

    @property
    def model(self) -> Path:
        return self.folder / "grain_processor_v2_output/final_grain_processor_v2.pt"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--products", type=Path, help="folder for what tests share: what is there already is not made again"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of tests in the order in which they begin.

    Those that take long are first, so that no process is left alone with one of them at the end. While one process makes
    what many tests share, the others begin with files that do not need it, because they would wait for it.
    """
    use_shared = {item.path for item in items if SHARED.intersection(item.fixturenames)}

    def rank(item: pytest.Item) -> tuple[bool, int, bool]:
        folder = item.path.parent.name
        place = SLOW_FIRST.index(folder) if folder in SLOW_FIRST else len(SLOW_FIRST)
        return item.path.name != MAKES_SHARED, place, item.path in use_shared

    items.sort(key=rank)


@pytest.fixture(scope="session")
def products(request, tmp_path_factory) -> Path:
    """A folder that all processes of a test run share."""
    folder = request.config.getoption("--products")
    if folder is None:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "products"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file in a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def made_once(folder: Path, make: Callable[[Path], tuple[Ran, ...]]) -> Project:
    """A project that the first process to need it makes. What the commands printed is kept beside it."""
    printed = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not printed.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was stopped while it made it
            ran = make(folder)
            printed.write_text(json.dumps([asdict(each) for each in ran]))
    return Project(folder, tuple(Ran(**each) for each in json.loads(printed.read_text())))


@contextlib.contextmanager
def unchanged(project: Project):
    """No test may change what all share."""
    before = state_of(project.folder)
    yield project
    assert state_of(project.folder) == before, f"a test changed {project.folder}, which all tests share"


@pytest.fixture(scope="session")
def converted(products) -> Project:
    """A library after stages 1 and 2. Tests only read it; `copied_tiles` is a copy."""

    def make(folder: Path) -> tuple[Ran, ...]:
        write_library(folder)
        return run("measure_audio_grain.py", cwd=folder), run("convert_to_spectrograms.py", cwd=folder)

    with unchanged(made_once(products / "converted", make)) as made:
        yield made


@pytest.fixture(scope="session")
def project(products, converted) -> Project:
    """The same library after stages 1 to 3. Tests only read it; `copied` is a copy."""

    def make(folder: Path) -> tuple[Ran, ...]:
        shutil.copytree(converted.folder, folder)
        return *converted.ran, run("cak_grain_processor.py", "--epochs", PROJECT_EPOCHS, "--device", "cpu", cwd=folder)

    with unchanged(made_once(products / "project", make)) as made:
        yield made


@pytest.fixture(scope="session")
def few_converted(products) -> Project:
    """Six sounds of a second after stages 1 and 2, for claims that do not need more. Tests only read it."""

    def make(folder: Path) -> tuple[Ran, ...]:
        write_library(folder, n_files=6, duration_s=1.0)
        return call("measure_audio_grain.py", cwd=folder), call("convert_to_spectrograms.py", cwd=folder)

    with unchanged(made_once(products / "few", make)) as made:
        yield made


@pytest.fixture
def few_tiles(few_converted, tmp_path) -> Project:
    """The same, to be damaged."""
    return Project(shutil.copytree(few_converted.folder, tmp_path / "project"), few_converted.ran)


@pytest.fixture
def copied(project, tmp_path) -> Project:
    """The trained library, to be damaged."""
    return Project(shutil.copytree(project.folder, tmp_path / "project"), project.ran)


@pytest.fixture
def copied_tiles(converted, tmp_path) -> Project:
    """The library after stages 1 and 2, to be damaged."""
    return Project(shutil.copytree(converted.folder, tmp_path / "project"), converted.ran)


@pytest.fixture(scope="session")
def short_run(project, tmp_path_factory):
    """A `ShortRun`: what training leaves and returns. Use a copy of its folder to change it."""
    from learning import ShortRun

    return ShortRun.of(project.folder, tmp_path_factory.mktemp("short") / "run")


BAD_FILES = {
    "text.wav": "not readable as audio",
    "zero_bytes.wav": "empty: 0 bytes",
    "no_samples.wav": "empty: it holds no samples",
    "zeros.wav": "silent",
    "10ms.wav": "too short: 10.0 ms",
    "nan.wav": "contains NaN",
    "truncated.wav": "cut off",
    "truncated.flac": "not readable as audio (Error : flac decoder lost sync)",
    "constant.wav": "nothing to measure between 50 and 15000 Hz",
}


def write_bad_files(folder: Path) -> Path:
    """One file for each fault of BAD_FILES."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.wav").write_text("this is no audio\n" * 20)
    (folder / "zero_bytes.wav").touch()
    sf.write(folder / "no_samples.wav", np.zeros(0), SR)
    sf.write(folder / "zeros.wav", np.zeros(SR), SR)
    sf.write(folder / "10ms.wav", noise(0.01), SR)
    sf.write(folder / "nan.wav", np.where(np.arange(SR) == 999, np.nan, noise(1)), SR, "FLOAT")
    sf.write(folder / "constant.wav", np.full(SR, 0.25), SR)
    for name in ("truncated.wav", "truncated.flac"):
        path = folder / name
        sf.write(path, noise(2), SR)
        os.truncate(path, path.stat().st_size // 2)
    return folder


class FakeDevice:
    """In place of sounddevice: streams that call back at real block times and keep what they were given.

    ``connected`` are the outputs that a new start finds, ``found`` those that the last one found; the last is the default.
    """

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, block: int = 512, outputs: tuple[str, ...] = ("speakers",)):
        self.block, self.streams, self.connected, self.n_starts = block, [], outputs, 0
        self._initialize()

    def _terminate(self):
        assert not any(stream.active for stream in self.streams), "a stream is open"
        self.found = ()

    def _initialize(self):
        self.found = tuple(self.connected)
        self.n_starts += 1

    @property
    def default(self):
        return SimpleNamespace(device=(-1, len(self.found)))

    def query_hostapis(self):
        return ({"name": "ALSA"}, {"name": "JACK"})

    def query_devices(self):
        """A microphone, and the outputs, whose host API stands after a colon."""
        devices = [{"name": "microphone", "hostapi": 0, "max_output_channels": 0}]
        for output in self.found:
            name, _, api = output.partition(":")
            devices.append({"name": name, "hostapi": int(api == "JACK"), "max_output_channels": 2})
        return devices

    def OutputStream(self, *, samplerate, channels, dtype, latency, callback, device):
        if not self.found:
            raise self.PortAudioError("Error querying device -1")
        output = self.query_devices()[self.default.device[1] if device is None else device]
        self.streams.append(FakeStream(samplerate, channels, self.block, callback, output))
        return self.streams[-1]


class FakeStream:
    """One stream of a `FakeDevice`."""

    def __init__(self, sr: int, channels: int, block: int, callback, output: dict):
        self.active, self.closed, self.heard, self.late = False, False, [], 0
        self.output, self.is_stalled = output, False
        self._sr, self._channels, self._block, self._callback = sr, channels, block, callback
        self._thread = threading.Thread(target=self._run, name="fake stream")

    def _run(self) -> None:
        due = time.monotonic()
        while self.active:
            if self.is_stalled:
                time.sleep(0.01)
                continue
            out = np.zeros((self._block, self._channels), np.float32)
            started = time.monotonic()
            self._callback(out, self._block, None, None)
            self.late += time.monotonic() - started > self._block / self._sr
            self.heard.append(out)
            due += self._block / self._sr
            time.sleep(max(0.0, due - time.monotonic()))

    def start(self) -> None:
        self.active = True
        self._thread.start()

    def vanish(self) -> None:
        self.active = False

    def stop(self) -> None:
        self.active = False
        self._thread.join()

    abort = stop

    def close(self) -> None:
        self.closed = True

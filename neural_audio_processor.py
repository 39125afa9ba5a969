#!/usr/bin/env python3
"""Move the grain of audio with a learned model: stage 4 of the Neural Grain Processor.

One slider s from -3 (texture) through 0 to +3 (smooth), in octaves of measured grain:

    grain(out) = grain(in) * 2 ** -s

With --grain it renders files and ends; without, it opens a window. 0 gives the input's
samples back bit for bit.

Reads:  a model that stage 3 made, and audio files
Writes: NAME_grain-2.0.wav in the current folder, or what -o names; never the input
Exit status: 0 all rendered; 1 some could not be (each is named);
             2 wrong usage or nothing rendered; 130 interrupted

    python neural_audio_processor.py
    python neural_audio_processor.py drone.wav --grain -2
    python neural_audio_processor.py drone.wav choir.flac --grain 1.5 -o smoother/
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import queue
import shutil
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert_to_spectrograms import (
    CEILING,
    DYNAMIC_RANGE_DB,
    AmountSolver,
    Analysis,
    Rendering,
    analyse,
    band_powers_of,
    label_axes,
    log_mel,
    move_grain,
)
from measure_audio_grain import (
    AUDIO_EXTENSIONS,
    DEFAULT_FOLDERS,
    PipelineError,
    Sound,
    check_writable,
    file_stamp,
    find_audio,
    jobs_argument,
    json_path,
    measure_grain,
    one_line,
    open_audio,
    open_sound,
    progress_bar,
    replacing,
    run_main,
    sound_from_array,
    warn,
)

if TYPE_CHECKING:
    from cak_grain_processor import LoadedModel

DEFAULT_MODEL = "grain_processor_v2_output/final_grain_processor_v2.pt"  # where stage 3 leaves it
SLIDER_RANGE = 3.0
WAV_LIMIT_BYTES = 2**32 - 2**16  # a WAV can't be longer: then it becomes RF64
FORMATS = {
    **dict.fromkeys((".wav", ".wave"), "WAV"), **dict.fromkeys((".aif", ".aiff", ".aifc"), "AIFF"), ".rf64": "RF64",
    ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".caf": "CAF", ".w64": "W64", ".au": "AU",
}  # fmt: skip
INTEGER_BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}
TAGS = ("title", "copyright", "software", "artist", "comment", "date", "album", "license", "tracknumber", "genre")
BATCH_LOG = "grain_renderings.jsonl"
DEMO_INPUT = "demo_harmonic_08.flac"  # a chord progression from the middle of the demo's range of grain
DEMO_POSITIONS = (-2.0, 2.0)

PICTURE_COLUMNS = 1200  # more than any window shows
SETTLE_MS = 120  # the hand rests so long before a new rendering starts
POLL_MS = 30
ACCENT = "#c2571a"


# Sample formats


def native_dtype(subtype: str) -> str:
    """NumPy type in which libsndfile gives samples of a format back exactly as they are stored."""
    if subtype in INTEGER_BITS:
        return "int16" if INTEGER_BITS[subtype] <= 16 else "int32"
    return "float64" if subtype == "DOUBLE" else "float32"


def to_sample_format(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as libsndfile stores them without touching them again.

    libsndfile scales floats by 2**15 - 1 when it writes and by 2**15 when it reads; rounding here
    makes writing the exact inverse of reading.

    Parameters
    ----------
    y : np.ndarray, full scale 1.0
    subtype : libsndfile's name of the sample format

    Returns
    -------
    np.ndarray, int16 or int32 with the bits at the top, or y itself for float and lossy formats
    """
    if subtype not in INTEGER_BITS:
        return y
    bits, dtype = INTEGER_BITS[subtype], native_dtype(subtype)
    full = 2.0 ** (bits - 1)
    values = np.clip(np.rint(np.float64(y) * full), -full, full - 1).astype(np.int64)
    return (values << (np.iinfo(dtype).bits - bits)).astype(dtype)


@dataclass(frozen=True)
class OutputFormat:
    """Container and sample format of a file, by libsndfile's names, and its tags."""

    format: str
    subtype: str
    tags: dict[str, str] = field(default_factory=dict)


def check_subtype(name: str) -> str:
    """libsndfile's name of a sample format, however it is spelt.

    Raises
    ------
    PipelineError
        If there is none of that name.
    """
    import soundfile as sf

    if name.upper() not in sf.available_subtypes():
        raise PipelineError(f"--subtype {name}: no such sample format; use one of {' '.join(sf.available_subtypes())}")
    return name.upper()


def output_format(output: Path, stored: OutputFormat, n_bytes: int, subtype: str | None = None) -> OutputFormat:
    """The format that an output's name asks for, with the input's sample format where it can hold it.

    Parameters
    ----------
    stored : the input's
    n_bytes : size of the samples, at most
    subtype : sample format asked for instead

    Raises
    ------
    PipelineError
        If the extension is no audio format that can be written, or can't hold the sample format.
    """
    import soundfile as sf

    name = FORMATS.get(output.suffix.lower())
    if name is None:
        raise PipelineError(
            f"{output}: can't write {output.suffix or 'a name without an extension'}; use one of {' '.join(FORMATS)}"
        )
    if name == "WAV" and n_bytes > WAV_LIMIT_BYTES:
        name = "RF64"
    if subtype is not None:
        if not sf.check_format(name, subtype):
            raise PipelineError(
                f"{output}: {name} can't hold {subtype}; it holds {' '.join(sf.available_subtypes(name))}"
            )
        return OutputFormat(name, subtype, stored.tags)
    return OutputFormat(name, _subtype_like(output, name, stored.subtype), stored.tags)


def _subtype_like(output: Path, name: str, input_subtype: str) -> str:
    import soundfile as sf

    if output.suffix.lower() == ".opus":
        return "OPUS"
    lossless = input_subtype in INTEGER_BITS or input_subtype in ("FLOAT", "DOUBLE")
    if sf.check_format(name, input_subtype) and (name == "MP3" or not input_subtype.startswith("MPEG")):
        return input_subtype
    if not lossless and sf.check_format(name, "FLOAT"):
        return "FLOAT"  # a decoded lossy file has no bits; float keeps what was decoded
    return "PCM_24" if sf.check_format(name, "PCM_24") else sf.default_subtype(name)


# Rendering files


@dataclass(frozen=True)
class Asked:
    """What is asked of a rendering: octaves of the slider, or a grain to reach."""

    octaves: float = 0.0
    target_grain: float | None = None

    def octaves_from(self, grain: float) -> float:
        """Octaves from a sound's own grain."""
        return self.octaves if self.target_grain is None else math.log2(grain / self.target_grain)

    @property
    def is_copy(self) -> bool:
        """Whether the samples shall stay as they are."""
        return self.target_grain is None and self.octaves == 0


@dataclass(frozen=True)
class FileRendering:
    """What became of one file."""

    input: Path
    output: Path
    rendering: Rendering | None  # None if the input has no grain; then only 0 can be asked


def output_name(source: Path, asked: Asked) -> str:
    """Default name of a rendering: drone.flac at -2 becomes drone_grain-2.0.wav, at a grain drone_grain0.02.wav."""
    if asked.target_grain is not None:
        return f"{source.stem}_grain{asked.target_grain:.3g}.wav"
    text = f"{asked.octaves:+.2f}"
    return f"{source.stem}_grain{text[:-1] if text.endswith('0') else text}.wav"


class GrainProcessor:
    """A model that is ready to render; knows nothing of windows.

    >>> processor = GrainProcessor.load(MODEL, device="cpu")
    >>> y = np.sin(440 * 2 * np.pi * np.arange(44100) / 44100)
    >>> y += 0.001 * np.random.default_rng(0).standard_normal(44100)
    >>> z = processor.render(y, 44100, grain=-2)
    >>> z.shape
    (44100,)
    >>> round(float(np.log2(processor.measure(y, 44100) / processor.measure(z, 44100))), 1)
    -2.0
    >>> np.array_equal(processor.render(y, 44100, grain=0), y)
    True

    Parameters
    ----------
    loaded : LoadedModel
    threads : int > 0, for one sound
    """

    def __init__(self, loaded: LoadedModel, threads: int | None = None):
        self.loaded = loaded
        self.threads = threads or os.cpu_count() or 1
        self._last: tuple[tuple, AmountSolver] | None = None

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> GrainProcessor:
        """Read a model that stage 3 made.

        Parameters
        ----------
        device : "auto", "cpu", "cuda" or "mps"

        Raises
        ------
        PipelineError
            If there is no usable model.
        """
        from cak_grain_processor import choose_device, load_model  # late: the window opens before torch is there

        if not Path(path).exists():
            raise PipelineError(f"{path}: no model there yet; make one with: python cak_grain_processor.py")
        return cls(load_model(Path(path), choose_device(device)))

    def measure(self, y: np.ndarray, sr: int) -> float:
        """Grain of samples, shape (n,) or (n, channels).

        Raises
        ------
        PipelineError
            If they have none: too short, silent, not finite.
        """
        return measure_grain(sound_from_array(y, sr), self.loaded.settings.grain)

    def render(self, y: np.ndarray, sr: int, *, grain: float) -> np.ndarray:
        """Move the grain of samples by some octaves, as far as the sound goes.

        Parameters
        ----------
        y : np.ndarray, shape (n,) or (n, channels), full scale 1.0
        sr : int > 0, Hz
        grain : float, octaves: negative is more texture, positive is smoother

        Returns
        -------
        np.ndarray, shape of ``y``, float32; ``y`` itself for 0

        Raises
        ------
        PipelineError
            If the samples have no grain.
        """
        if grain == 0:
            return y
        solver = self.solver(sound_from_array(y, sr))
        rendering = move_grain(solver, grain, ceiling=max(1.0, solver.analysis.peak))
        return np.concatenate(list(rendering.sound.blocks())).reshape(y.shape)

    def solver(self, sound: Sound) -> AmountSolver:
        """What depends on the sound alone: its analysis and its pattern."""
        analysis = analyse(sound, self.loaded.settings, self.threads)
        return AmountSolver(analysis, self.loaded.pattern_db(analysis.x))

    def _solver_of(self, source: Path, sound: Sound) -> AmountSolver:
        """The same of a file; that of the last one is kept, for it is often rendered again."""
        key, last = (source, *file_stamp(source)), self._last
        if last is None or last[0] != key:
            self._last = last = (key, self.solver(sound))
        return last[1]

    def render_file(
        self, source: Path, output: Path, asked: Asked, *, overwrite: bool = False, subtype: str | None = None
    ) -> FileRendering:
        """Render one file; the output appears under its name only when it is whole.

        Parameters
        ----------
        subtype : sample format by libsndfile's name; the input's if None

        Raises
        ------
        PipelineError
            If the input can't be read or has no grain, or the output can't be written.
        """
        sound = open_sound(source)
        check_output(source, output, overwrite)
        with open_audio(source) as file:
            stored = OutputFormat(file.format, file.subtype, tags_of(file))
        target = output_format(output, stored, sound.n_samples * sound.channels * 8, subtype)
        check_writable(output.parent)
        with replacing(output) as temporary:
            if asked.is_copy:
                copy_samples(source, stored, temporary, target)
                return FileRendering(source, output, self._unmoved(sound))
            solver = self._solver_of(source, sound)
            ceiling = CEILING if target.subtype in INTEGER_BITS else max(1.0, solver.analysis.peak)

            def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
                return written_sound(temporary, blocks, like, target)

            octaves = asked.octaves_from(solver.analysis.grain)
            rendering = move_grain(solver, octaves, ceiling=ceiling, store=store)
            if rendering.sound is solver.analysis.sound:  # nothing could be moved: what was stored is not it
                copy_samples(source, stored, temporary, target)
        return FileRendering(source, output, rendering)

    def _unmoved(self, sound: Sound) -> Rendering | None:
        try:
            grain = measure_grain(sound, self.loaded.settings.grain, self.threads)
        except PipelineError:
            return None  # silence has no grain, and at 0 it need not have any
        return Rendering(sound, 0.0, grain, grain, True, 0.0, 0.0, 0.0)


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Refuse to write over the input, or without leave over anything else.

    Raises
    ------
    PipelineError
        If it would.
    """
    if output.exists():
        if output.samefile(source):
            raise PipelineError(f"{output}: is the input itself, which is never overwritten; choose another name")
        if output.is_dir():
            raise PipelineError(f"{output}: is a folder; end it with / to write into it")
        if not overwrite:
            raise PipelineError(f"{output}: exists already; give --overwrite to replace it")


def tags_of(file) -> dict[str, str]:
    """The texts (title, artist ...) that libsndfile found in an open file."""
    return {name: text for name in TAGS if (text := getattr(file, name, ""))}


@contextmanager
def writing(path: Path, like: Sound, target: OutputFormat) -> Iterator[object]:
    """A ``soundfile.SoundFile`` for writing, with its tags.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't.
    """
    import soundfile as sf

    try:
        with sf.SoundFile(path, "w", like.sr, like.channels, target.subtype, format=target.format) as file:
            for name, text in target.tags.items():
                with suppress(sf.LibsndfileError):  # a format that has no such tag
                    setattr(file, name, text)
            yield file
    except sf.LibsndfileError as err:
        raise PipelineError(
            f"can't write {target.format} {target.subtype} with {like.channels} channels at {like.sr} Hz ({err.error_string.strip()})"
        ) from err
    except OSError as err:
        raise PipelineError(f"can't write ({err.strerror})") from err


def from_sample_format(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as they read back from a file of a format, float32 with full scale 1.0."""
    return (y / np.float64(-np.iinfo(y.dtype).min)).astype(np.float32) if subtype in INTEGER_BITS else np.float32(y)


def written_sound(path: Path, blocks: Iterator[np.ndarray], like: Sound, target: OutputFormat) -> Sound:
    """A sound that is written to a file while it is first read, so that it need not be read back.

    What a lossy format makes of it is known only from the file, so there it is written at once.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't; while reading, too.
    """

    def write() -> Iterator[np.ndarray]:
        with writing(path, like, target) as file:
            for block in blocks:
                stored = to_sample_format(block, target.subtype)
                file.write(stored)
                yield from_sample_format(stored, target.subtype)

    if target.subtype not in INTEGER_BITS and target.subtype not in ("FLOAT", "DOUBLE"):
        for _ in write():
            pass
        return open_sound(path)
    unwritten = [write()]
    return replace(like, blocks=lambda: unwritten.pop() if unwritten else open_sound(path).blocks())


def copy_samples(source: Path, stored: OutputFormat, output: Path, target: OutputFormat) -> None:
    """The input's samples as they are: the file itself if the format stays, else sample by sample.

    Raises
    ------
    PipelineError
        If the output can't be written.
    """
    if (stored.format, stored.subtype) == (target.format, target.subtype):
        try:
            shutil.copyfile(source, output)
        except OSError as err:
            raise PipelineError(f"can't write ({err.strerror})") from err
        return
    with open_audio(source) as file, writing(output, open_sound(source), target) as copy:
        for block in file.blocks(1 << 16, dtype=native_dtype(stored.subtype), always_2d=True):
            copy.write(block)


def describe(rendering: Rendering | None) -> str:
    """One line about a rendering: "grain 0.0031 -> 0.0124 (asked x4.00, got x3.97)"."""
    if rendering is None:
        return "no grain to measure; copied as it is"
    asked, got = 2.0**-rendering.asked_octaves, 2.0**-rendering.got_octaves
    line = f"grain {rendering.grain_before:.3g} -> {rendering.grain_after:.3g} (asked x{asked:#.3g}, got x{got:#.3g}"
    if not rendering.within_reach:
        line += ": as far as this sound goes"
    line += ")"
    if rendering.limited_db > 0.1:
        line += f", peaks limited by {rendering.limited_db:.1f} dB"
    if abs(rendering.level_db) > 0.5:
        line += f", {abs(rendering.level_db):.1f} dB {'quieter' if rendering.level_db < 0 else 'louder'}"
    return line


def report_of(result: FileRendering) -> dict:
    """What became of a file, for machines: names, plain numbers, no NaN."""
    names = {"input": str(result.input), "output": str(result.output)}
    if result.rendering is None:
        return names | {"grain_before": None, "grain_after": None}
    numbers = {name: value for name, value in vars(result.rendering).items() if name != "sound"}
    return names | {"got_octaves": result.rendering.got_octaves} | numbers


# Batches


@dataclass(frozen=True)
class Job:
    """One rendering to do."""

    source: Path
    output: Path
    asked: Asked


class BatchLog:
    """Remembers in the output folder what was rendered from what, so that a batch that stopped goes on where it was.

    One line of JSON when a file is begun and one when it is done, appended; a line that was cut off
    counts for nothing.

    Parameters
    ----------
    folder : Path
    model_path : Path
    subtype : str or None
    """

    def __init__(self, folder: Path, model_path: Path, subtype: str | None):
        self._path = folder / BATCH_LOG
        self._common = [hashlib.sha256(model_path.read_bytes()).hexdigest(), subtype]
        self._last: dict[str, dict] = {}
        self._lock = threading.Lock()
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    record = json.loads(line)
                    self._last[record["output"]] = record
            with self._path.open("ab") as file:
                file.write(b"\n")  # in case the last line was cut off

    def _record(self, job: Job, is_done: bool) -> dict:
        record = {
            "output": json_path(job.output, self._path.parent.absolute()),
            "input": str(job.source),
            "asked": [job.asked.octaves, job.asked.target_grain],
            "model_and_subtype": self._common,
        }
        stamps = {"stamps": [list(file_stamp(path)) for path in (job.source, job.output)]} if is_done else {}
        return record | stamps

    def has(self, job: Job) -> bool:
        """Whether a job was done and neither its input nor its output has changed since."""
        try:
            record = self._record(job, is_done=True)
        except PipelineError:
            return False
        return self._last.get(record["output"]) == record

    def owns(self, job: Job) -> bool:
        """Whether the output is an earlier run's and not the user's."""
        last = self._last.get(json_path(job.output, self._path.parent.absolute()), {})
        try:
            return bool(last) and ("stamps" not in last or last["stamps"][1] == list(file_stamp(job.output)))
        except PipelineError:
            return False

    def add(self, job: Job, *, is_done: bool) -> None:
        """Remember that a job was begun, or done."""
        record = self._record(job, is_done)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def render_batch(
    processor: GrainProcessor,
    batch: list[Job],
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    log: BatchLog | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Iterator[tuple[Job, FileRendering | str | None]]:
    """Render files, some at a time, and go on past those that fail.

    Yields
    ------
    each job, in the order given, with what became of it: a rendering, the reason why there is none,
    or nothing if it was done before
    """
    from joblib import Parallel, delayed

    one = GrainProcessor(processor.loaded, 1) if jobs > 1 else processor

    def render(job: Job) -> FileRendering | str | None:
        is_ours = overwrite
        if log is not None:
            if log.has(job):
                return None
            is_ours = overwrite or log.owns(job)
            if is_ours or not job.output.exists():
                log.add(job, is_done=False)
        mine = GrainProcessor(one.loaded, one.threads) if jobs > 1 else one  # each keeps a file of its own
        try:
            result = mine.render_file(job.source, job.output, job.asked, overwrite=is_ours, subtype=subtype)
            if log is not None:
                log.add(job, is_done=True)
            return result
        except PipelineError as err:
            return one_line(str(err))

    pool = Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    results = pool(delayed(render)(job) for job in batch)
    yield from progress(zip(batch, results, strict=True), len(batch))


# Playing


class Player:
    """Plays samples through sounddevice, where that, PortAudio and a sound card are there."""

    def __init__(self) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as err:
            self._device, self.why_not = None, f"no sound: {err}"
        else:
            self._device, self.why_not = sounddevice, ""

    def play(self, sound: Sound) -> str:
        """Start playing from the beginning; returns why it can't, or nothing."""
        if self._device is None:
            return self.why_not
        try:
            self._device.play(np.concatenate(list(sound.blocks())), sound.sr)
        except (self._device.PortAudioError, ValueError) as err:
            return f"no sound: {one_line(str(err))}"
        return ""

    def stop(self) -> None:
        """Stop playing."""
        if self._device is not None:
            self._device.stop()


# The work behind the window


@dataclass(frozen=True)
class Opened:
    """A file that the window shows: its analysis, its pattern, and its picture in dB."""

    path: Path
    solver: AmountSolver
    picture_db: np.ndarray
    reference: float

    @property
    def analysis(self) -> Analysis:
        """What is known of the sound."""
        return self.solver.analysis


@dataclass(frozen=True)
class Rendered:
    """A rendering that the window shows."""

    opened: Opened
    rendering: Rendering
    picture_db: np.ndarray


@dataclass(frozen=True)
class Message:
    """What the worker tells the window: kind is model, opened, rendered, saved or error."""

    kind: str
    content: object


def picture_db(sound: Sound, settings, reference: float | None = None) -> tuple[np.ndarray, float]:
    """Mel picture in dB under a reference band power, no wider than a window shows.

    Returns
    -------
    picture : np.ndarray, shape (n_mels, at most PICTURE_COLUMNS), in [-80, 0]
    reference : float, the loudest band power if none was given
    """
    powers = band_powers_of(sound, settings)
    if len(powers) > PICTURE_COLUMNS:  # each column shows the loudest of its frames
        powers = np.maximum.reduceat(powers, np.linspace(0, len(powers), PICTURE_COLUMNS, endpoint=False).astype(int))
    reference = reference or float(powers.max())
    return settings.dynamic_range_db * (log_mel(powers, settings.dynamic_range_db, reference) - 1), reference


class Worker:
    """Does the slow work on a thread of its own and only puts messages on a queue.

    Of several renderings that wait, only the last one asked for is done.
    """

    def __init__(self, model_path: Path, device: str):
        self.messages: queue.Queue[Message] = queue.Queue()
        self._tasks: queue.Queue[tuple[str, Callable[[], Message | None]] | None] = queue.Queue()
        self._model_path, self._device = model_path, device
        self._processor: GrainProcessor | None = None
        self._wanted = 0
        self._thread = threading.Thread(target=self._work, name="grain worker", daemon=True)
        self._thread.start()
        self._put("model", self._load)

    def open(self, path: Path) -> None:
        """Read and analyse a file."""
        self._put("opened", lambda: self._open(path))

    def render(self, opened: Opened, octaves: float) -> None:
        """Render at a position of the slider, unless a later wish overtakes it."""
        self._wanted += 1
        ticket = self._wanted
        self._put("rendered", lambda: self._render(opened, octaves) if ticket == self._wanted else None)

    def save(self, source: Path, output: Path, octaves: float) -> None:
        """Render a file to disk, over an older file of that name if the dialog was told so."""
        self._put("saved", lambda: self._processor.render_file(source, output, Asked(octaves), overwrite=True))

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._tasks.put(None)
        self._thread.join(timeout=10)

    def _put(self, kind: str, task: Callable[[], object]) -> None:
        self._tasks.put((kind, task))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            kind, work = task
            try:
                content = work()
            except PipelineError as err:
                self.messages.put(Message("error", one_line(str(err))))
            except Exception as err:  # noqa: BLE001  a fault of ours must be said: a dead thread would look like long work
                at = traceback.extract_tb(err.__traceback__)[-1]
                place = f"{Path(at.filename).name}:{at.lineno}"
                self.messages.put(
                    Message("error", f"internal fault, please report it: {one_line(repr(err))} at {place}")
                )
            else:
                self.messages.put(Message(kind, content))

    def _load(self) -> GrainProcessor:
        self._processor = GrainProcessor.load(self._model_path, self._device)
        return self._processor

    def _open(self, path: Path) -> Opened:
        if self._processor is None:
            raise PipelineError(f"{self._model_path}: no model; make one with: python cak_grain_processor.py")
        try:
            solver = self._processor.solver(open_sound(path))
        except PipelineError as err:
            raise PipelineError(f"{path.name}: {err}") from err
        picture, reference = picture_db(solver.analysis.sound, solver.analysis.settings)
        return Opened(path, solver, picture, reference)

    def _render(self, opened: Opened, octaves: float) -> Rendered:
        rendering = move_grain(opened.solver, octaves, ceiling=max(CEILING, opened.analysis.peak))
        picture, _ = picture_db(rendering.sound, opened.analysis.settings, opened.reference)
        return Rendered(opened, rendering, picture)


# The window


@dataclass(frozen=True)
class Dialogs:
    """How the window asks for names; a test puts its own answers here."""

    open_name: Callable[[], str]
    save_name: Callable[[str], str]


def system_dialogs() -> Dialogs:
    """The system's file dialogs."""
    from tkinter import filedialog

    pattern = " ".join(f"*{extension}" for extension in sorted(AUDIO_EXTENSIONS))
    return Dialogs(
        lambda: filedialog.askopenfilename(title="Open audio", filetypes=[("Audio", pattern), ("All files", "*")]),
        lambda name: filedialog.asksaveasfilename(
            title="Save the result",
            initialfile=name,
            defaultextension=".wav",
            filetypes=[("Audio", " ".join(f"*{e}" for e in FORMATS))],
        ),
    )


class GrainWindow:
    """The desktop window: open, slide, compare, play, save.

    All state is in a few attributes; `_refresh` derives every label and every enabled or disabled
    control from them.

    Parameters
    ----------
    root : tkinter.Tk
    model_path, device : for the worker
    source : Path or None, opened at the start
    dialogs : Dialogs or None, the system's if None
    """

    def __init__(self, root, model_path: Path, device: str, source: Path | None = None, dialogs: Dialogs | None = None):
        self.root, self.dialogs = root, dialogs or system_dialogs()
        self.player = Player()
        self.worker = Worker(model_path, device)
        self.has_model, self.busy, self.note, self.is_error = False, 1, "loading the model ...", False
        self.opened: Opened | None = None
        self.rendered: Rendered | None = None
        self._settle: str | None = None  # the callback that renders once the hand rests
        self._build()
        self._refresh()
        if source is not None:
            self.open(source)
        self._poll_id = root.after(POLL_MS, self._poll)

    # What is on the screen

    def _build(self) -> None:
        from tkinter import ttk

        root = self.root
        root.title("Neural Grain Processor")
        root.geometry("1100x680")
        root.minsize(900, 600)
        style = ttk.Style(root)
        style.theme_use("clam")
        style.configure("Grain.TLabel", font=("TkDefaultFont", 13))
        style.configure("Error.TLabel", foreground="#b00020")
        style.configure("Accent.Horizontal.TProgressbar", background=ACCENT)
        outer = ttk.Frame(root, padding=12)
        outer.pack(fill="both", expand=True)

        bar = ttk.Frame(outer)
        bar.pack(fill="x")
        self.open_button = ttk.Button(bar, text="Open ...", command=self.ask_open)
        self.before_button = ttk.Button(bar, text="Play before", command=lambda: self.play("before"))
        self.after_button = ttk.Button(bar, text="Play after", command=lambda: self.play("after"))
        self.stop_button = ttk.Button(bar, text="Stop", command=self.player.stop)
        self.save_button = ttk.Button(bar, text="Save as ...", command=self.ask_save)
        for button in (self.open_button, self.before_button, self.after_button, self.stop_button, self.save_button):
            button.pack(side="left", padx=(0, 6))
        self.file_label = ttk.Label(bar)
        self.file_label.pack(side="left", padx=8)

        below = ttk.Frame(outer)  # packed before the pictures: what is packed last is squeezed first
        below.pack(side="bottom", fill="x", pady=(4, 0))
        self.note_label = ttk.Label(below)
        self.note_label.pack(side="left", anchor="w")
        self.progress = ttk.Progressbar(below, mode="indeterminate", length=160, style="Accent.Horizontal.TProgressbar")
        self.grain_label = ttk.Label(outer, style="Grain.TLabel")
        self.grain_label.pack(side="bottom", anchor="w", pady=(6, 0))
        self._build_slider(outer)
        self._build_pictures(outer)

        modifier = "Command" if root.tk.call("tk", "windowingsystem") == "aqua" else "Control"
        root.bind(f"<{modifier}-o>", lambda _: self.ask_open())
        root.bind(f"<{modifier}-s>", lambda _: self.ask_save())
        root.bind(f"<{modifier}-q>", lambda _: self.close())
        root.protocol("WM_DELETE_WINDOW", self.close)

    def _build_slider(self, outer) -> None:
        from tkinter import ttk

        sliding = ttk.Frame(outer)
        sliding.pack(side="bottom", fill="x", pady=(8, 0))
        ttk.Label(sliding, text="texture  -3").pack(side="left")
        self.slider = ttk.Scale(sliding, from_=-SLIDER_RANGE, to=SLIDER_RANGE, command=self._slid, takefocus=True)
        self.slider.pack(side="left", fill="x", expand=True, padx=8)
        ttk.Label(sliding, text="+3  smooth").pack(side="left")
        self.value_label = ttk.Label(sliding, width=7, anchor="e", style="Grain.TLabel")
        self.value_label.pack(side="left")
        self.slider.bind("<Button-1>", lambda _: self.slider.focus_set(), add=True)
        for key, step in (("<Left>", -0.1), ("<Right>", 0.1), ("<Prior>", 1.0), ("<Next>", -1.0)):
            self.slider.bind(key, lambda _, step=step: self._step(step))
        for key in ("<Home>", "<Double-Button-1>"):
            self.slider.bind(key, lambda _: self._move_to(0.0))

    def _build_pictures(self, outer) -> None:
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(10, 4.2), layout="constrained")
        self.axes = self.figure.subplots(1, 2, sharex=True, sharey=True)
        self.images = [
            axes.imshow(
                np.full((1, 1), -DYNAMIC_RANGE_DB),
                "magma",
                aspect="auto",
                origin="lower",
                vmin=-DYNAMIC_RANGE_DB,
                vmax=0,
            )
            for axes in self.axes
        ]
        for axes, title in zip(self.axes, ("before", "after"), strict=True):
            axes.set(title=title, xlabel="time (s)", xticks=[], yticks=[])
        self.figure.colorbar(self.images[0], ax=list(self.axes), label="level (dB under the loudest band)")
        self.canvas = FigureCanvasTkAgg(self.figure, outer)
        self.canvas.get_tk_widget().pack(fill="both", expand=True, pady=(8, 0))

    def _refresh(self) -> None:
        """Derive every label and every enabled or disabled control from the state."""
        octaves = self.octaves
        self.value_label["text"] = f"{octaves:+.1f}" if octaves else "0"
        self.file_label["text"] = self._file_text()
        shown = self.rendered
        self.grain_label["text"] = (
            describe(shown.rendering) if shown else "open a sound to begin" if not self.opened else " "
        )
        self.note_label.configure(text=self.note, style="Error.TLabel" if self.is_error else "TLabel")
        ready = self.opened is not None
        for widget, is_on in (
            (self.open_button, self.has_model),
            (self.slider, ready),
            (self.before_button, ready),
            (self.after_button, shown is not None),
            (self.stop_button, ready),
            (self.save_button, ready),
        ):
            widget.state(["!disabled" if is_on else "disabled"])
        if self.busy and not self.progress.winfo_manager():
            self.progress.pack(side="right")
            self.progress.start(20)
        elif not self.busy:
            self.progress.stop()
            self.progress.pack_forget()

    def _file_text(self) -> str:
        if self.opened is None:
            return ""
        sound, name = self.opened.analysis.sound, one_line(self.opened.path.name)
        short = name if len(name) <= 48 else f"{name[:30]} ... {name[-12:]}"
        channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
        return f"{short}   {sound.n_samples / sound.sr:.1f} s, {channels}, {sound.sr} Hz"

    def _draw(self) -> None:
        """Put the pictures that there are on the screen, on one colour scale."""
        settings, sound = self.opened.analysis.settings, self.opened.analysis.sound
        after = self.rendered.picture_db if self.rendered else self.opened.picture_db
        for image, picture in zip(self.images, (self.opened.picture_db, after), strict=True):
            image.set_data(picture)
            image.set_extent((0, sound.n_samples / sound.sr, 0, settings.n_mels))
        for axes in self.axes:
            axes.set_xlim(0, sound.n_samples / sound.sr)
            axes.set_ylim(0, settings.n_mels)
            axes.xaxis.set_major_locator(self._time_ticks())
            label_axes(axes, settings)
        self.axes[1].set_ylabel("")
        self.canvas.draw_idle()

    @staticmethod
    def _time_ticks():
        from matplotlib.ticker import MaxNLocator

        return MaxNLocator(6)

    # What the user does

    @property
    def octaves(self) -> float:
        """Position of the slider in octaves, in steps of 0.1, with a detent at 0."""
        return round(float(self.slider.get()), 1) + 0.0

    def ask_open(self) -> None:
        """Ask for a file and open it."""
        if self.has_model and (name := self.dialogs.open_name()):
            self.open(Path(name))

    def open(self, path: Path) -> None:
        """Open a file; the picture comes when the worker has it."""
        self._start(f"reading {one_line(path.name)} ...")
        self.worker.open(path)

    def ask_save(self) -> None:
        """Ask for a name and render the file to it."""
        if self.opened is None:
            return
        name = self.dialogs.save_name(output_name(self.opened.path, Asked(self.octaves)))
        if name:
            self._start(f"saving {one_line(Path(name).name)} ...")
            self.worker.save(self.opened.path, Path(name), self.octaves)

    def play(self, which: str) -> None:
        """Play the sound before or after."""
        shown = self.rendered.rendering.sound if which == "after" and self.rendered else self.opened.analysis.sound
        self.note, self.is_error = self.player.play(shown), True
        self._refresh()

    def _step(self, step: float) -> str:
        self._move_to(self.octaves + step)
        return "break"

    def _move_to(self, octaves: float) -> str:
        if self.opened is not None:
            self.slider.set(max(-SLIDER_RANGE, min(SLIDER_RANGE, octaves)))
        return "break"

    def _slid(self, _value: str) -> None:
        """The slider moved: show the number at once, render when the hand rests."""
        if self._settle is not None:
            self.root.after_cancel(self._settle)
        self._settle = self.root.after(SETTLE_MS, self._settled)
        self._refresh()

    def _settled(self) -> None:
        self._settle = None
        if self.opened is not None and not (self.rendered and self.rendered.rendering.asked_octaves == self.octaves):
            self._start("rendering ...")
            self.worker.render(self.opened, self.octaves)

    def close(self) -> None:
        """End the sound, the worker and the window."""
        self.root.after_cancel(self._poll_id)
        self.player.stop()
        self.root.withdraw()
        self.worker.close()
        self.root.destroy()

    # What the worker says

    def _start(self, note: str) -> None:
        self.busy += 1
        self.note, self.is_error = note, False
        self._refresh()

    def _poll(self) -> None:
        try:
            while True:
                self._take(self.worker.messages.get_nowait())
        except queue.Empty:
            pass
        self._poll_id = self.root.after(POLL_MS, self._poll)

    def _take(self, message: Message) -> None:
        self.busy -= 1
        if message.kind == "error":
            self.note, self.is_error = str(message.content), True
        else:
            getattr(self, f"_take_{message.kind}")(message.content)
        self._refresh()

    def _take_model(self, processor: GrainProcessor) -> None:
        self.has_model = True
        self.note = f"model ready: {processor.loaded.audit.get('verdict', 'not audited')}"

    def _take_opened(self, opened: Opened) -> None:
        self.opened, self.rendered, self.note = opened, None, ""
        self.slider.state(["!disabled"])
        self.slider.set(0.0)
        self._draw()
        self._settled()

    def _take_rendered(self, rendered: Rendered | None) -> None:
        if rendered is not None and rendered.opened is self.opened:
            self.rendered, self.note = rendered, ""
            self._draw()

    def _take_saved(self, saved: FileRendering) -> None:
        self.note = f"saved {saved.output}: {describe(saved.rendering)}"


def open_window(model_path: Path, device: str, source: Path | None) -> int:
    """Show the window until it is closed.

    Raises
    ------
    PipelineError
        If there is no display or no tkinter.
    """
    hint = "render without one: python neural_audio_processor.py INPUT --grain -2"
    try:
        import tkinter as tk
    except ImportError as err:
        raise PipelineError(
            f"no window: Python here is without tkinter (on Debian: apt-get install python3-tk); {hint}"
        ) from err
    try:
        root = tk.Tk(className="Neural Grain Processor")
    except tk.TclError as err:
        raise PipelineError(f"no window: no display to show it on; {hint}") from err
    GrainWindow(root, model_path, device, source)
    root.mainloop()
    return 0


# The command line


def grain_argument(text: str) -> float:
    """``--grain``: a finite number within the slider's range."""
    value = float(text)
    if not abs(value) <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within -{SLIDER_RANGE:g} to +{SLIDER_RANGE:g}")
    return value


def target_argument(text: str) -> float:
    """``--target-grain``: a grain, which lies between 0 and 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no grain: not within 0 to 1")
    return value


def sweep_argument(text: str) -> float:
    """``--sweep``: a step in octaves."""
    value = float(text)
    if not 0.05 <= value <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within 0.05 to {SLIDER_RANGE:g} octaves")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 4."""
    parser = argparse.ArgumentParser(
        prog="neural_audio_processor.py",
        description="Move the grain of audio: in a window, or with --grain and the like straight to files.",
    )
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="audio files or folders")
    asked = parser.add_argument_group("what to render (one of them; without, the window opens)")
    one = asked.add_mutually_exclusive_group()
    one.add_argument(
        "--grain", type=grain_argument, metavar="S", help="-3 (texture) .. 0 .. +3 (smooth), in octaves of grain"
    )
    one.add_argument("--target-grain", type=target_argument, metavar="G", help="reach this grain, such as 0.02")
    one.add_argument("--match", type=Path, metavar="REFERENCE", help="reach the grain of this file")
    one.add_argument(
        "--sweep",
        type=sweep_argument,
        nargs="?",
        const=1.0,
        metavar="STEP",
        help="all positions from -3 to +3 in steps (default: 1)",
    )
    one.add_argument(
        "--demo",
        action="store_true",
        help="a demo sound in the window, or where there is no display, rendered at -2 and +2",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help="output file, or folder (default: NAME_grain-2.0.wav in the current folder); a folder keeps the inputs' tree",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist already (never the input)"
    )
    parser.add_argument(
        "--subtype", metavar="NAME", help="sample format, such as PCM_16, PCM_24 or FLOAT (default: the input's)"
    )
    parser.add_argument("-j", "--jobs", type=jobs_argument, default=1, help="files at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one report for machines instead of lines")
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), metavar="PATH", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    return parser


def _positions(args: argparse.Namespace) -> list[Asked]:
    """What is asked of each input."""
    if args.sweep is not None:
        n = int(SLIDER_RANGE / args.sweep + 1e-9)
        return [Asked(round(i * args.sweep, 4) + 0.0) for i in range(-n, n + 1)]
    if args.match is not None:
        try:
            return [Asked(target_grain=measure_grain(open_sound(args.match)))]
        except PipelineError as err:
            raise PipelineError(f"--match {one_line(args.match)}: {err}") from err
    return [Asked(target_grain=args.target_grain) if args.target_grain else Asked(args.grain)]


def _batch(args: argparse.Namespace) -> tuple[list[Job], Path | None]:
    """What to render, and the output folder where a log of it is kept (only of several)."""
    asked = _positions(args)
    found: dict[Path, Path] = {}  # each file and the folder that its tree starts from
    for path in args.inputs:
        for source in find_audio([path]):
            found.setdefault(source, Path(os.path.abspath(path)) if path.is_dir() else source.parent)
    if not found:
        raise PipelineError(
            f"0 files found in {', '.join(map(one_line, args.inputs))} (looked for {' '.join(sorted(AUDIO_EXTENSIONS))})"
        )
    n_outputs = len(found) * len(asked)
    if args.output is not None and not args.output.endswith("/") and not Path(args.output).is_dir():
        if n_outputs > 1:
            raise PipelineError(f"-o {args.output}: {n_outputs} outputs need a folder; end it with /")
        return [Job(next(iter(found)), Path(args.output), asked[0])], None
    folder = Path(args.output or ".")
    twins = Counter(source.with_suffix("") for source in found)  # a.wav and a.flac keep their extensions
    batch = [
        Job(source, folder / source.parent.relative_to(base) / output_name(name, each), each)
        for source, base in found.items()
        for name in [source.with_name(f"{source.name}.wav") if twins[source.with_suffix("")] > 1 else source]
        for each in asked
    ]
    taken: dict[Path, Path] = {}
    for job in batch:
        if taken.setdefault(job.output, job.source) != job.source:
            raise PipelineError(
                f"{one_line(job.output)}: both {one_line(taken[job.output])} and {one_line(job.source)} would go there"
            )
    return batch, folder if n_outputs > 1 and args.output is not None else None


def render_all(args: argparse.Namespace, batch: list[Job], log_folder: Path | None) -> int:
    """Render what is asked, say what became of each file, go on past those that fail.

    Returns
    -------
    exit status: 0 all, 1 some, 2 none
    """
    if args.subtype is not None:
        args.subtype = check_subtype(args.subtype)
    processor = GrainProcessor.load(args.model, args.device)
    log = None
    if log_folder is not None:
        check_writable(log_folder)
        log = BatchLog(log_folder, args.model, args.subtype)
    reports, failures, n_before = [], [], 0
    progress = progress_bar("rendering") if len(batch) > 1 else lambda items, total: items
    results = render_batch(
        processor, batch, overwrite=args.overwrite, subtype=args.subtype, log=log, jobs=args.jobs, progress=progress
    )
    for job, result in results:
        if result is None:
            n_before += 1
        elif isinstance(result, str):
            reason = result if str(job.output) in result else f"{one_line(job.source)}: {result}"
            failures.append({"input": str(job.source), "reason": result})
            print(f"error: {reason}", file=sys.stderr)
        else:
            reports.append(report_of(result))
            if not args.json:
                print(f"{one_line(job.source.name)}: {describe(result.rendering)}")
                print(f"wrote {one_line(job.output)}")
    if args.json:
        print(json.dumps({"version": 1, "rendered": reports, "failed": failures, "unchanged": n_before}, indent=2))
    elif len(batch) > 1:
        print(f"{len(reports)} rendered, {n_before} unchanged since the last run, {len(failures)} failed")
    return 0 if not failures else 1 if len(failures) < len(batch) else 2


def _demo_input() -> Path:
    for path in (Path(folder, DEMO_INPUT) for folder in DEFAULT_FOLDERS):
        if path.exists():
            return path
    raise PipelineError(
        f"no {DEMO_INPUT} in {DEFAULT_FOLDERS[1]}/; make the demo library with: python measure_audio_grain.py --demo"
    )


def _run(args: argparse.Namespace) -> int:
    if not args.model.exists():
        raise PipelineError(f"{args.model}: no model there yet; make one with: python cak_grain_processor.py")
    if args.demo and args.inputs:
        raise PipelineError("--demo brings its own sound; leave INPUT out")
    for name in ("grain", "target_grain", "match", "sweep"):
        if getattr(args, name) is not None:
            if not args.inputs:
                raise PipelineError(f"--{name.replace('_', '-')} needs an INPUT to render")
            return render_all(args, *_batch(args))
    if len(args.inputs) > 1:
        raise PipelineError(
            f"the window opens one file, {len(args.inputs)} were given; give --grain to render them all"
        )
    source = _demo_input() if args.demo else args.inputs[0] if args.inputs else None
    if source is not None and not source.is_file():
        raise PipelineError(f"{source}: no such file")
    try:
        return open_window(args.model, args.device, source)
    except PipelineError as err:
        if not args.demo:
            raise
        warn(f"{one_line(str(err))}")
    args.overwrite, folder = True, Path(args.output or ".")
    asked = [Asked(octaves) for octaves in DEMO_POSITIONS]
    return render_all(args, [Job(source, folder / output_name(source, each), each) for each in asked], None)


def main(argv: list[str] | None = None) -> int:
    """Run stage 4 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())

"""Damaged audio files in stages 1, 2 and 4: the outcomes, by format.

    python tests/benchmarks/fuzz.py [--mutants 2400] [--seed 0] [--model PATH] [--commands 4]

A mutant is a valid file with one kind of damage. Each gets a process of its own, so that a crash, a hang (10 s) or
memory beyond 2 GB is noticed and counted. After that, some folders of mutants go through the real commands.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import soundfile as sf

from convert_to_spectrograms import convert_file
from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.base.errors import PipelineError
from neural_grain.data.metadata import FileGrain, SkippedFile
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings, default_settings, settings_record
from neural_grain.learn.checkpoint import save_checkpoint
from neural_grain.learn.model import GrainModel

ROOT = Path(__file__).resolve().parents[2]
SR = 48_000  # Opus does not have 44.1 kHz
HANG_S = 10.0
MEMORY_MB = 2048
FAULTS = ("traceback", "warning", "crash", "hang", "memory")
POSITIONS = (0.0, -1.0)  # a copy and a rendering
FORMATS = {
    "wav": [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAVEX", "PCM_16"),
            ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610"), ("WAV", "DOUBLE"), ("RF64", "PCM_16")],
    "flac": [("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    "ogg": [("OGG", "VORBIS"), ("OGG", "OPUS")],
    "mp3": [("MP3", "MPEG_LAYER_III")],
    "aiff": [("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AIFF", "PCM_24"), ("AIFF", "IMA_ADPCM")],
    "caf": [("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("CAF", "FLOAT")],
    "w64": [("W64", "PCM_16")],
    "au": [("AU", "PCM_16"), ("AU", "FLOAT")],
}  # fmt: skip
SHARES = {"wav": 6, "flac": 5, "ogg": 5, "mp3": 4, "aiff": 5, "caf": 3, "w64": 1, "au": 1}
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 1023, 1024, 0x7FFF, 0x8000, 0xFFFF, 100_000, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1,
            2**36 - 1, 2**48, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
FIELDS = {  # offset, number of bytes and byte order of header fields: rate, channels, bits, sizes
    "wav": [(4, 4, "<"), (16, 4, "<"), (20, 2, "<"), (22, 2, "<"), (24, 4, "<"), (28, 4, "<"), (32, 2, "<"), (34, 2, "<"), (40, 4, "<")],
    "flac": [(5, 3, ">"), (8, 2, ">"), (10, 2, ">"), (12, 3, ">"), (15, 3, ">"), (18, 3, ">"), (18, 8, ">"), (21, 5, ">")],
    "ogg": [(6, 8, "<"), (14, 4, "<"), (18, 4, "<"), (26, 1, "<"), (37, 4, "<"), (39, 1, "<"), (40, 4, "<"), (56, 1, "<")],
    "mp3": [(0, 4, ">"), (1, 2, ">"), (2, 1, ">"), (36, 8, ">"), (44, 4, ">"), (48, 4, ">")],
    "aiff": [(4, 4, ">"), (16, 4, ">"), (20, 2, ">"), (22, 4, ">"), (26, 2, ">"), (28, 2, ">"), (28, 8, ">"), (42, 4, ">")],
    "caf": [(12, 8, ">"), (20, 8, ">"), (28, 4, ">"), (32, 4, ">"), (36, 4, ">"), (40, 4, ">"), (44, 4, ">"), (48, 4, ">")],
    "w64": [(16, 8, "<"), (56, 8, "<"), (64, 2, "<"), (66, 2, "<"), (68, 4, "<"), (76, 2, "<"), (78, 2, "<"), (96, 8, "<")],
    "au": [(4, 4, ">"), (8, 4, ">"), (12, 4, ">"), (16, 4, ">"), (20, 4, ">")],
}  # fmt: skip


class Mutant(NamedTuple):
    """A damaged file."""

    extension: str
    damage: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What stage 1 and stage 4 did with a file: a word, and after a colon the reason or the fault."""

    measured: str
    rendered: str = ""
    memory_mb: float = 0.0
    seconds: float = 0.0


def whole_sound() -> np.ndarray:
    """Half a second of a tone with noise."""
    t = np.arange(SR // 2) / SR
    return 0.3 * np.sin(2 * np.pi * 220 * t) + 0.02 * np.random.default_rng(0).standard_normal(len(t))


def whole_files(folder: Path) -> dict[str, list[bytes]]:
    """The bytes of a valid file in each format and sample format, with one or two channels."""
    y, files = whole_sound(), defaultdict(list)
    for extension, kinds in FORMATS.items():
        for i, (format_, subtype) in enumerate(kinds):
            samples = y if i % 2 or subtype in ("GSM610", "IMA_ADPCM") else np.stack([y, y[::-1]], axis=1)
            path = folder / "whole"
            with sf.SoundFile(path, "w", SR, samples.reshape(len(y), -1).shape[1], subtype, format=format_) as file:
                if i == 0 and extension in ("wav", "mp3", "flac", "ogg"):
                    file.title = "a title"  # gives some mutants tags to damage
                file.write(samples)
            files[extension].append(path.read_bytes())
            path.unlink()
    return dict(files)


def with_ogg_checksums(data: bytes) -> bytes:
    """An Ogg file whose pages have correct checksums; without them a decoder skips the pages."""
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    out = bytearray(data)
    start = out.find(b"OggS")
    while start >= 0 and start + 27 <= len(out):
        n_segments = out[start + 26]
        stop = start + 27 + n_segments + sum(out[start + 27 : start + 27 + n_segments])
        if stop > len(out):
            break
        out[start + 22 : start + 26] = bytes(4)
        crc = 0
        for byte in out[start:stop]:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ table[(crc >> 24) ^ byte]
        out[start + 22 : start + 26] = struct.pack("<I", crc)
        start = out.find(b"OggS", stop)
    return bytes(out)


def chunks(data: bytes) -> list[tuple[int, int]]:
    """Start and stop of each chunk of a RIFF, AIFF or CAF file; empty for other formats."""
    kinds = {b"RIFF": (12, "<4sI"), b"RF64": (12, "<4sI"), b"FORM": (12, ">4sI"), b"caff": (8, ">4sQ")}
    if data[:4] not in kinds:
        return []
    at, layout = kinds[data[:4]]
    found, n_header = [], struct.calcsize(layout)
    while at + n_header <= len(data):
        _, size = struct.unpack_from(layout, data, at)
        stop = min(len(data), at + n_header + size + size % 2)
        found.append((at, stop))
        at = stop
    return found


def bits_flipped(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Flip up to 49 bits, in the first 200 bytes or anywhere."""
    out = bytearray(data)
    end = min(len(out), 200) if rng.random() < 0.5 else len(out)
    for at in rng.integers(0, end, rng.integers(1, 50)):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Remove the end, or a piece of the middle."""
    start = int(rng.integers(0, len(data) if rng.random() < 0.7 else min(len(data), 300)))
    return data[:start] if rng.random() < 0.6 else data[:start] + data[start + int(rng.integers(1, 5000)) :]


def chunk_repeated(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Repeat, remove or move a chunk, or where there are no chunks a piece."""
    places = chunks(data)
    if not places:
        start = int(rng.integers(0, len(data)))
        places = [(start, start + int(rng.integers(1, 3000)))]
    start, stop = places[rng.integers(len(places))]
    piece, times = data[start:stop], int(rng.choice([0, 1, 2, 50]))
    rest = data[:start] + data[stop:]
    at = stop if rng.random() < 0.5 else int(rng.choice([0, 12, start, len(rest)]))
    return data[:at] + piece * times + data[at:] if times else rest


def field_extreme(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Set one to three fields of the header to extreme values."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.75:
            at, size, order = FIELDS[extension][rng.integers(len(FIELDS[extension]))]
        else:
            places = chunks(data)
            at = (
                places[rng.integers(len(places))][0] + 4 if places and rng.random() < 0.5 else int(rng.integers(0, 128))
            )
            size, order = int(rng.choice([1, 2, 4, 8])), "<>"[rng.integers(2)]
        value = int(EXTREMES[rng.integers(len(EXTREMES))]) & (256**size - 1)
        out[at : at + size] = value.to_bytes(size, "little" if order == "<" else "big")
    return bytes(out)


def big_tag(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Add a tag of up to a megabyte, whose size field may be wrong, before or after the sound."""
    true_size = int(rng.choice([10, 1_000_000]))
    stated_size = int(rng.choice([true_size, 0, 2**28 - 1, 2**32 - 1]))
    body = rng.integers(0, 256, true_size, dtype=np.uint8).tobytes()
    if extension in ("mp3", "flac", "ogg") and rng.random() < 0.7:
        synchsafe = bytes((stated_size >> shift) & 0x7F for shift in (21, 14, 7, 0))
        return b"ID3\x04\x00\x00" + synchsafe + body + data
    order = "<" if extension in ("wav", "w64") else ">"
    kind = [b"LIST", b"INFO", b"id3 ", b"NAME", b"COMT", b"MARK", b"cue ", b"smpl", b"bext", b"PEAK"][rng.integers(10)]
    chunk = kind + struct.pack(order + "I", stated_size) + (b"INFO" if kind == b"LIST" else b"") + body
    at = 12 if rng.random() < 0.6 else len(data)
    return data[:at] + chunk + data[at:]


def wild_samples(data: bytes, extension: str, rng: np.random.Generator) -> bytes:
    """Replace a part of the body by random bytes, zeros or ones, which as floats include NaN and huge numbers."""
    start = int(rng.integers(44, len(data)))
    n = int(rng.integers(1, len(data) - start + 1))
    piece = [rng.integers(0, 256, n, dtype=np.uint8).tobytes(), b"\xff" * n, bytes(n)][rng.integers(3)]
    return data[:start] + piece + data[start + n :]


MUTATIONS: tuple[Callable[[bytes, str, np.random.Generator], bytes], ...] = (
    bits_flipped, cut, chunk_repeated, field_extreme, field_extreme, big_tag, wild_samples,
)  # fmt: skip


def mutants(folder: Path, n: int, seed: int) -> Iterator[Mutant]:
    """Write ``n`` mutants; they depend on the seed only."""
    rng, files = np.random.default_rng(seed), whole_files(folder)
    extensions = [extension for extension, share in SHARES.items() for _ in range(share)]
    for i in range(n):
        extension = extensions[i % len(extensions)]
        data = files[extension][rng.integers(len(files[extension]))]
        if rng.random() < 0.1:
            other = list(files)[rng.integers(len(files))]
            tail = files[other][rng.integers(len(files[other]))]
            at = int(rng.integers(4, 200))
            damage, data = f"spliced with {other}", data[:at] + tail[at if rng.random() < 0.5 else 0 :]
        else:
            mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
            damage, data = mutation.__name__, mutation(data, extension, rng)
        if extension == "ogg" and rng.random() < 0.7:
            data = with_ogg_checksums(data)
        path = folder / f"{i:05d}.{extension}"
        path.write_bytes(data)
        yield Mutant(extension, damage, path)


def is_fault(outcome: Outcome) -> bool:
    """True if this must not happen, whatever the file holds."""
    return outcome.measured.startswith(FAULTS) or outcome.rendered.startswith(FAULTS)


def run_guarded(work: Callable[[], str]) -> str:
    """Return the result of ``work``, or the exception that it raised with the place in our code."""
    try:
        return work()
    except PipelineError as err:
        return f"refused: {err}"
    except Exception as err:  # noqa: BLE001  exceptions of any kind are what this benchmark looks for
        trace = err.__traceback__
        while trace.tb_next is not None and "site-packages" not in trace.tb_next.tb_frame.f_code.co_filename:
            trace = trace.tb_next
        kind = "warning" if isinstance(err, Warning) else "traceback"
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return f"{kind}: {type(err).__name__}: {err} at {place}"


def measure_and_convert(path: Path, folder: Path, settings: SpectrogramSettings) -> str:
    """Take a file through stages 1 and 2."""
    item = measure_file(path, settings.grain)
    if not isinstance(item, FileGrain):
        return f"skipped: {item.reason}"
    if not 0 < item.grain <= 1:
        return f"traceback: grain is {item.grain}"
    (folder / "arrays").mkdir(parents=True)
    converted = convert_file(item, settings, folder, path.parent, None)
    return f"refused by stage 2: {converted.reason}" if isinstance(converted, SkippedFile) else "measured"


def render(path: Path, folder: Path, processor: GrainProcessor) -> str:
    """Take a file through stage 4."""
    for octaves in POSITIONS:
        result = processor.render_file(path, folder / f"{octaves}.wav", RenderTarget(octaves))
        if octaves and not np.isfinite(sf.read(result.output)[0]).all():
            return "traceback: it wrote NaN"
    return "rendered"


def process(path: Path, processor: GrainProcessor, answer: Connection) -> None:
    """Take a file through stages 1, 2 and 4 and send the `Outcome`; runs in a process of its own."""
    warnings.simplefilter("error")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print messages to stderr
    folder = path.parent / f"{path.stem}_out"
    before_mb, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.monotonic()
    measured = run_guarded(lambda: measure_and_convert(path, folder, processor.loaded.settings))
    rendered = run_guarded(lambda: render(path, folder, processor))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    if memory_mb > MEMORY_MB:
        rendered = f"memory: {memory_mb:.0f} MB"
    answer.send(Outcome(measured, rendered, memory_mb, time.monotonic() - started))


@dataclass(frozen=True)
class Running:
    """A process that works on a file."""

    process: BaseProcess
    path: Path
    started: float

    def outcome(self, answer: Connection, is_ready: bool) -> Outcome | None:
        """The outcome of the process, which may have crashed or hang; None while it works."""
        if is_ready:
            try:
                return answer.recv()
            except EOFError:
                self.process.join()
                code = self.process.exitcode
                return Outcome(f"crash: {signal.Signals(-code).name if code < 0 else code}")
        if time.monotonic() - self.started > HANG_S:
            self.process.kill()
            return Outcome(f"hang: more than {HANG_S:g} s")
        return None


def outcomes(paths: list[Path], processor: GrainProcessor, jobs: int) -> Iterator[tuple[Path, Outcome]]:
    """Yield the outcome of each file, several at a time, each in a process of its own."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(paths))
    running: dict[Connection, Running] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            path = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=process, args=(path, processor, sender), daemon=True)
            worker.start()
            sender.close()
            running[receiver] = Running(worker, path, time.monotonic())
        ready = wait(list(running), timeout=0.5)
        for receiver, run in list(running.items()):
            outcome = run.outcome(receiver, receiver in ready)
            if outcome is not None:
                run.process.join()
                del running[receiver]
                yield run.path, outcome


def untrained_model(path: Path) -> Path:
    """Write a model with initial weights; what a model has learned does not matter here."""
    settings = default_settings(GrainSettings())
    model = GrainModel(settings)
    content = {"weights": model.state_dict(), "channels": model.detector.mix.in_channels,
               "settings": settings_record(settings), "training": {}, "audit": {}}  # fmt: skip
    save_checkpoint(path, content)
    return path


def table(tried: list[tuple[Mutant, Outcome]]) -> str:
    """A row for each format with the number of files for each outcome."""
    names = ("tried", "measured", "skipped", "rendered", "refused", *FAULTS)
    lines = [f"{'format':>8s} " + " ".join(f"{name:>9s}" for name in names) + "   peak MB  slowest s"]
    for extension in (*SHARES, "all"):
        rows = [outcome for mutant, outcome in tried if extension in (mutant.extension, "all")]
        if not rows:
            continue
        counts = Counter({"tried": len(rows)})
        for row in rows:
            counts.update(name for name in names if name in (row.measured.split(":")[0], row.rendered.split(":")[0]))
        cells = " ".join(f"{counts[name]:9d}" for name in names)
        peak_mb, slowest_s = max(row.memory_mb for row in rows), max(row.seconds for row in rows)
        lines.append(f"{extension:>8s} {cells} {peak_mb:9.0f} {slowest_s:10.2f}")
    return "\n".join(lines)


def run_commands(folder: Path, model: Path) -> str:
    """Take a folder of mutants through stages 1, 2 and 4 as a user does; returns one row."""
    row = []
    for script, *args in (
        ("measure_audio_grain.py", "mutants"),
        ("convert_to_spectrograms.py", "--no-images"),
        ("neural_audio_processor.py", "mutants", "--grain", "-1", "-o", "out/", "--model", model),
    ):
        started = time.monotonic()
        command = [sys.executable, ROOT / script, *map(str, args)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        is_warned = "RuntimeWarning:" in done.stderr
        fault = "TRACEBACK" if "Traceback" in done.stderr else "WARNING" if is_warned else "clean"
        row.append(f"status {done.returncode:3d} {fault} {time.monotonic() - started:5.1f} s")
        if fault != "clean":
            row.append(done.stderr[-3000:])
    return " | ".join(row)


def main() -> int:
    """Print the tables; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="(default: one that has learned nothing)")
    parser.add_argument("--commands", type=int, default=4, help="folders of 100 mutants for the real commands")
    parser.add_argument("--keep", type=Path, help="where mutants that cause a fault are kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model.absolute() if args.model else untrained_model(folder / "model.pt")
        processor = GrainProcessor.load(model, "cpu")
        processor.threads = 1
        processor.render(whole_sound(), SR, grain=-1.0)  # imports everything, so that the processes need not do it
        by_path = {mutant.path: mutant for mutant in mutants(folder, args.mutants, args.seed)}
        tried = []
        for path, outcome in outcomes(list(by_path), processor, os.cpu_count() or 1):
            tried.append((by_path[path], outcome))
            if is_fault(outcome):
                print(f"{path.name} ({by_path[path].damage}): {outcome.measured} / {outcome.rendered}", flush=True)
                if args.keep:
                    args.keep.mkdir(exist_ok=True)
                    (args.keep / path.name).write_bytes(path.read_bytes())
        print(table(tried))
        for i in range(args.commands):
            place, seed = folder / f"commands{i}", args.seed + 1 + i
            (place / "mutants").mkdir(parents=True)
            list(mutants(place / "mutants", 100, seed))
            print(f"100 mutants, seed {seed}: {run_commands(place, model)}", flush=True)
    return int(any(is_fault(outcome) for _, outcome in tried))


if __name__ == "__main__":
    sys.exit(main())

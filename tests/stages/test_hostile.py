"""Hostile input: damaged audio, odd file names, and JSON documents and checkpoints with wrong or malicious content.

Whatever the input is, it is used or refused with one line of text. Nothing outside the folder is read or changed, no code
in a file runs, and no file can make the program allocate much more memory than its own size.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from benchmarks import fuzz_cases, sandbox
from conftest import PROJECT_EPOCHS, SR, call, drone, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convert_to_spectrograms
from convert_to_spectrograms import convert_dataset
from neural_grain.app.batch_log import BatchLog
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import Job, RenderTarget
from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.base.errors import PipelineError, printable
from neural_grain.data.metadata import read_metadata
from neural_grain.data.tiles import Tile, TilePictures, load_tile, read_pairs
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.learn.adam import Adam
from neural_grain.learn.audit import audit_model
from neural_grain.learn.checkpoint import load_state, model_of
from neural_grain.learn.dataset import check_library, fingerprint
from neural_grain.learn.model import GrainModel
from neural_grain.learn.model_file import load_model, read_checkpoint
from neural_grain.learn.settings import TrainOptions
from neural_grain.session.preferences import read_preferences

N_EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "30"))
EXAMPLES = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ODD_NAMES = (
    b"two  spaces .wav", b"new\nline.wav", "ünï 音 🎵.wav".encode(), b"no UTF-8 \xff\xfe.wav", b"-x.wav", b"--grain.wav",
    b"a..b.wav", b"n" * 251 + b".wav", b"n" * 250 + b"m.wav", "🎵".encode() * 62 + b"abc.wav", b"%s{0}'\"\\.wav",
    b"esc\x1b[31m.wav", "line\u2028end\u0085.wav".encode(),
)  # fmt: skip


@contextmanager
def succeeds_or_fails_in_one_line() -> Iterator[None]:
    """The block succeeds, or it raises a PipelineError that a user reads as one short line."""
    try:
        yield
    except PipelineError as err:
        if not is_one_line(err):
            raise AssertionError(f"{len(str(err))} characters: {str(err)[:200]}") from err


def is_one_line(err: PipelineError) -> bool:
    return len(printable(str(err)).splitlines()) == 1 and len(str(err)) < 1000


@pytest.fixture(scope="module")
def bases(project, tmp_path_factory):
    """The projects of benchmarks/fuzz.py."""
    return fuzz_cases.Bases.make(tmp_path_factory.mktemp("bases"), project.model)


@pytest.mark.parametrize(
    ("kind", "n", "n_used"),
    [("audio", 16, 0), ("documents", 24, 1), ("curves", 6, 0), ("models", 16, 0), ("arrays", 4, 0)],
)
def test_a_damaged_file_causes_no_traceback_crash_hang_large_allocation_or_trespass(bases, tmp_path, kind, n, n_used):
    """A short form of benchmarks/fuzz.py."""
    outcomes = [
        (case, outcome)
        for case, outcome in sandbox.outcomes(fuzz_cases.KINDS[kind].cases(bases, n, seed=7), tmp_path, jobs=2)
    ]
    assert len(outcomes) == n
    assert not [f"{case.name} {case.damage}: {outcome.words}" for case, outcome in outcomes if outcome.is_fault]
    assert sum(outcome.words[-1] == "used" for _, outcome in outcomes) > n_used


FAULTS = {
    "traceback": lambda project: (sandbox.run_guarded(lambda: 1 // 0),),
    "warning": lambda project: (sandbox.run_guarded(lambda: np.float64(1) / np.float64(0)),),
    "crash": lambda project: signal.raise_signal(signal.SIGKILL),
    "hang": lambda project: signal.raise_signal(signal.SIGXCPU),
    "trespass: reads": lambda project: ("used", Path("/etc/hostname").exists() and Path("/etc/hostname").read_text()),
    "trespass: writes": lambda project: ("used", str((project / "../x").write_text(""))),
    "trespass: os.remove": lambda project: ("used", str((project / "../outside.txt").unlink())),
    "trespass: os.system": lambda project: ("used", str(os.system("true"))),
    "trespass: code": lambda project: ("used", str((project / "hacked").mkdir())),
    "trespass: around": lambda project: (
        "used",
        str(sf.write("../x.wav", np.zeros(9), SR)),
    ),  # C code, unseen by Python
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_sandbox_of_that_benchmark_notices(tmp_path, fault):
    case = sandbox.Case("x", "none", "x", b"", None, FAULTS[fault])
    ((_, outcome),) = sandbox.outcomes([case], tmp_path, jobs=1)
    assert outcome.is_fault
    assert any(word.startswith(fault) for word in outcome.words)


@pytest.mark.parametrize(("sr", "n"), [(1, SR), (999, SR), (2**31 - 1, SR), (1_000_001, SR)])
def test_an_impossible_sample_rate_is_refused_before_any_sample_is_read(sr, n):
    def never():
        raise AssertionError("a block was read")

    with pytest.raises(PipelineError, match=f"its sample rate is {sr} Hz"):
        measure_grain(Sound(sr, n, 1, never))


@pytest.mark.parametrize("level", [1e15, 1e30, 3e38])
def test_samples_far_beyond_full_scale_are_refused(tmp_path, level):
    sf.write(tmp_path / "loud.wav", level * drone(duration_s=0.5) / 2, SR, "FLOAT")
    ran = call("measure_audio_grain.py", "loud.wav", cwd=tmp_path)
    assert ran.status == 2
    assert "times full scale" in ran.err
    assert "RuntimeWarning" not in ran.err


@pytest.mark.parametrize("level", [1e9, 1e-15, 1e-19, 1e-20, 1e-21, 1e-30, 1e-44])
def test_a_sound_of_any_level_is_measured_or_refused_without_a_numerical_warning(level):
    with warnings.catch_warnings(), succeeds_or_fails_in_one_line():
        warnings.simplefilter("error")
        assert 0 < measure_grain(sound_from_array(level * drone(duration_s=0.5), SR)) < 1


def test_a_header_that_promises_more_samples_than_the_file_can_hold_is_refused(tmp_path):
    path = tmp_path / "long.flac"
    sf.write(path, drone(duration_s=0.5), SR)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the upper four of the 36 bits that hold the number of samples
    path.write_bytes(data)
    ran = call("measure_audio_grain.py", path, cwd=tmp_path)
    assert ran.status == 2
    assert "its header promises" in ran.err


def test_position_0_does_not_copy_a_damaged_file(project, tmp_path):
    """The Xing header claims 3.5 million samples, which the decoder would fill with zeros."""
    path = tmp_path / "long.mp3"
    sf.write(path, drone(duration_s=0.5), SR, format="MP3")
    data = bytearray(path.read_bytes())
    at = data.index(b"Xing" if b"Xing" in data else b"Info")
    data[at + 8 : at + 12] = struct.pack(">I", 3000)  # number of MP3 frames, 1152 samples each
    path.write_bytes(data)
    ran = call("neural_audio_processor.py", path, "--grain", 0, "-o", "x.wav", "--model", project.model, cwd=tmp_path)
    assert ran.status == 2
    assert "damaged: decoding stops" in ran.err
    assert not (tmp_path / "x.wav").exists()


def test_any_file_name_passes_through_all_stages(project, tmp_path):
    folder = os.fsencode(tmp_path) + b"/Drone/sub\n\xff dir/-d .."
    os.makedirs(folder)
    for i, name in enumerate(ODD_NAMES):
        with sf.SoundFile(folder + b"/" + name, "w", SR, 1, "PCM_16", format="WAV") as file:
            file.write(drone(-75 + 5 * i, 0.7, seed=i, root_hz=80 + 13 * i))
    for start, script, *args in (
        (run, "measure_audio_grain.py"),
        (call, "measure_audio_grain.py"),
        (run, "convert_to_spectrograms.py"),
        (call, "convert_to_spectrograms.py"),
        (call, "cak_grain_processor.py", "--epochs", 1, "--device", "cpu"),
        (run, "neural_audio_processor.py", "Drone", "--grain", 1, "-o", "out/", "--model", project.model),
    ):
        ran = start(script, *args, cwd=tmp_path)
        assert ran.status == 0, ran.err
    assert len(read_metadata(tmp_path / "metadata.json").files) == len(ODD_NAMES)
    rendered = [path for path in (tmp_path / "out").rglob("*_grain*.wav") if sf.info(os.fsencode(path)).frames]
    assert len(rendered) == len(ODD_NAMES)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**400), 1e308, -1.0, 0, "", "..", "/etc/passwd", "../../x.npy", "a\0b", "\ud800", "x" * 5000])
)  # fmt: skip
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(content: object, place: tuple = ()) -> Iterator[tuple]:
    """The path of keys and indices to every value in a JSON document."""
    yield place
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield from places(content[key], (*place, key))


def damaged(content: dict, data: st.DataObject) -> object:
    """A copy of the document with one to three values replaced, removed, repeated or added."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(sorted(places(content), key=repr)))
        if not place:
            continue
        parent, last = content, place[-1]
        for key in place[:-1]:
            parent = parent[key]
        change = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "add"]))
        if change == "replace":
            parent[last] = data.draw(JSON_VALUES)
        elif change == "remove":
            del parent[last]
        elif change == "repeat" and isinstance(parent, list):
            parent.append(parent[last])
        elif isinstance(parent, dict):
            parent[data.draw(st.text(max_size=5))] = data.draw(JSON_VALUES)
    return content


@EXAMPLES
@given(data=st.data())
def test_a_damaged_metadata_json_is_used_or_refused_in_one_line(converted, tmp_path, data):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(damaged(json.loads((converted.folder / "metadata.json").read_text()), data)))
    with succeeds_or_fails_in_one_line():
        metadata = read_metadata(path)
        default_settings(metadata.settings)
        convert_dataset(metadata.files, metadata.settings, output_dir=tmp_path / "s", base=tmp_path, images=False)


@EXAMPLES
@given(data=st.data())
def test_a_damaged_training_pairs_json_is_used_or_refused_in_one_line(converted, tmp_path, data):
    path = tmp_path / "training_pairs.json"
    path.write_text(json.dumps(damaged(json.loads((converted.folder / "training_pairs.json").read_text()), data)))
    with succeeds_or_fails_in_one_line():
        pairs = read_pairs(path)
        assert all(tile.array.is_relative_to(tmp_path) for tile in pairs.tiles)
        check_library(pairs)
        for tile in pairs.tiles:
            load_tile(tile, pairs.settings)


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "null", "3", '"x"', "[]", "{}", '{"version": 1}', '{"version": 1e999}', '{"version": [1]}',
        '{"version": 1, "settings": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"version": ' + "9" * 5000 + "}",
        '{"version": 1, "version": 2}', "\ufeff{}", '{"version": 1, "settings": NaN}',
    ],
)  # fmt: skip
def test_text_that_is_not_such_a_document_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "document.json"
    path.write_text(text, encoding="utf-8")
    for read in (read_metadata, read_pairs):
        with pytest.raises(PipelineError, match=r"document\.json") as caught:
            read(path)
        assert is_one_line(caught.value)


def load_all_tiles(path: Path) -> list[TilePictures]:
    pairs = read_pairs(path)
    return [load_tile(tile, pairs.settings) for tile in pairs.tiles]


def change_first_tile(copied_tiles, **changes) -> None:
    path = copied_tiles.folder / "training_pairs.json"
    content = json.loads(path.read_text())
    content["tiles"][0] |= changes
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("reference", ["dots", "absolute", "linked folder", "linked file", "texture", "image"])
def test_a_document_cannot_make_the_stages_read_or_remove_a_file_outside_its_folder(
    copied_tiles, tmp_path, monkeypatch, reference
):
    outside = tmp_path / "outside"
    outside.mkdir()
    arrays = copied_tiles.folder / "spectrograms/arrays"
    name = sorted(arrays.glob("*.npy"))[0].name
    (outside / name).write_bytes((arrays / name).read_bytes())
    if reference == "linked folder":
        for array in arrays.iterdir():
            (outside / array.name).write_bytes(array.read_bytes())
            array.unlink()
        arrays.rmdir()
        arrays.symlink_to(outside)
    elif reference == "linked file":
        (arrays / name).unlink()
        (arrays / name).symlink_to(outside / name)
        change_first_tile(copied_tiles, array=f"spectrograms/arrays/{name}")
    elif reference == "texture":
        change_first_tile(copied_tiles, texture=f"../outside/{name}")
    elif reference == "image":
        change_first_tile(copied_tiles, image="../outside/x.png")
    else:
        change_first_tile(copied_tiles, array=f"../outside/{name}" if reference == "dots" else str(outside / name))
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(PipelineError, match=r"not a regular file|is outside the folder"):
        load_all_tiles(copied_tiles.folder / "training_pairs.json")
    content = json.loads((copied_tiles.folder / "metadata.json").read_text())
    del content["files"][0]  # now stage 2 has to remove the tiles of this file
    (copied_tiles.folder / "metadata.json").write_text(json.dumps(content))
    monkeypatch.chdir(copied_tiles.folder)
    assert convert_to_spectrograms.main(["--no-images"]) == (2 if reference == "linked folder" else 0)
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


def test_stage_2_refuses_an_output_folder_that_stage_3_would_refuse(copied_tiles, tmp_path):
    ran = call("convert_to_spectrograms.py", "--output-dir", tmp_path / "elsewhere", cwd=copied_tiles.folder)
    assert ran.status == 2
    assert "is outside the folder of training_pairs.json" in ran.err
    assert not (tmp_path / "elsewhere").exists()


def test_the_audit_renders_audio_outside_the_folder_only_if_it_is_unchanged_since_it_was_measured(copied):
    pairs = read_pairs(copied.folder / "training_pairs.json")
    model = model_of(load_model(copied.model))
    for source in pairs.sources:
        os.utime(source.path)
    rows, _, failures = audit_model(
        pairs, model, held_out_violation=0.02, nearer_than_one_gain=0.1, seed=0, folder=copied.folder / "elsewhere"
    )
    assert not rows
    assert len(failures) == 3
    assert all("changed since it was measured" in failure for failure in failures)
    rows, _, failures = audit_model(
        pairs, model, held_out_violation=0.02, nearer_than_one_gain=0.1, seed=0, folder=copied.folder
    )
    assert len({row.file for row in rows}) == 3
    assert not failures


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3000000000,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (128, 100000000), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (128, 256), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (128, 256), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 256), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (128, 25600000000000000000000), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (128, 256), }",
        "{'descr': '<f4'",
        "(" * 9000,
        "{'shape': " + "9" * 9000 + "}",
        "\0" * 100,
        "'''",
    ],
)
@pytest.mark.parametrize("part", ["array", "texture"])
def test_an_array_with_a_false_header_is_refused_without_allocating_memory(tmp_path, header, part):
    path, text = tmp_path / "x.npy", header.encode().ljust(118) + b"\n"
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((128, 256), np.float32))
    tile = replace(Tile(good, good, None, tmp_path / "x.wav", 0.0, 0.1, 12.0), **{part: path})
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(128 * 256 * 4))
    tile_settings = default_settings(GrainSettings())
    tracemalloc.start()
    with pytest.raises(PipelineError, match=r"x\.npy") as caught:
        load_tile(tile, tile_settings)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert is_one_line(caught.value)


def rewrite_pickle(source: Path, path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Copy a checkpoint, with the pickle inside it changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            data = old.read(record)
            new.writestr(record.filename, change(data) if record.filename.endswith("data.pkl") else data)
    return path


def call_with(name: bytes, *args: int) -> Callable[[bytes], bytes]:
    """Replace a pickle by one that calls a function with integers."""
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in args)
    return lambda _: b"\x80\x02c" + name + b"\n(" + numbers + b"tR."


def set_attribute(after: bytes) -> Callable[[bytes], bytes]:
    """Set an attribute of what a pickle has made where ``after`` ends."""
    return lambda data: data.replace(after, after + b"N}X\x05\0\0\0dtypeX\1\0\0\0Os\x86b", 1)


MALICIOUS_PICKLES = {
    "call of os.mkdir": lambda _: b"\x80\x02cos\nmkdir\n(X\x06\x00\x00\x00hackedtR.",
    "bytearray of 1 GB": call_with(b"__builtin__\nbytearray", 10**9),
    "bytearray beyond memory": call_with(b"__builtin__\nbytearray", 10**18),
    "tensor of 12 GB": call_with(b"torch\nTensor", 3 * 10**9),
    "integer of 5000 bytes": lambda _: b"\x80\x02\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b".",
    "storages of 10 GB": lambda data: data.replace(b"K\x10t", b"\x8a\x08" + struct.pack("<q", 10**10) + b"t"),
    "string of 3 GB as a shape": lambda data: data.replace(b"QK\0K\2\x85", b"QK\0X\3\0\0\0abcJ\xff\xff\xff\x3f\x86", 1),
    "tensor beyond its record": lambda data: data.replace(b"QK\0K\2\x85", b"QK\1K\2\x85", 1),
    "tensor that skips values": lambda data: data.replace(b"QK\0K\2\x85", b"QK\0K\2\x85", 1).replace(
        b"K\1\x85", b"K\2\x85", 1
    ),
    "record of another length": lambda data: data.replace(b"K\x10t", b"K\x11t", 1),
    "record of integers": lambda data: data.replace(b"FloatStorage", b"LongStorage", 1),
    "no record": lambda data: data.replace(b"storage", b"Storage", 1),
    "tensor of many dimensions": lambda data: data.replace(b"QK\0K\2\x85", b"QK\0(" + 65 * b"K\1" + b"t", 1),
    "place of one billion": lambda data: data[:-1] + b"r" + struct.pack("<I", 10**9) + b".",
    "20,000 nested tuples as a key": lambda _: b"\x80\2})" + b"\x85" * 20_000 + b"Ns.",
    "5,000,000 lists": lambda _: b"\x80\2](" + b"]" * 5_000_000 + b"e.",
    "attribute of a tensor": set_attribute(b"Rq\x10"),
    "attribute of a function": set_attribute(b"torch._utils\n_rebuild_tensor_v2\nq\5"),
    "attribute of a type": set_attribute(b"collections\nOrderedDict\nq\r"),
    "dictionary of the pairs of an array": lambda data: data.replace(
        b"Rq\x10", b"Rq\x10\x85ccollections\nOrderedDict\nh\x10\x85R\x86", 1
    ),
    "20,000 nested lists": lambda _: b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "an opcode that no file of torch has": lambda _: pickle.dumps({"version": 1}, 4),
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "list": lambda _: pickle.dumps([2], 2),
}


@pytest.mark.parametrize("content", MALICIOUS_PICKLES)
def test_a_malicious_checkpoint_is_refused_without_running_code_or_allocating_memory(
    project, tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    path = rewrite_pickle(project.model, tmp_path / "model.pt", MALICIOUS_PICKLES[content])
    assert zipfile.ZipFile(path).read("archive/data.pkl") != zipfile.ZipFile(project.model).read("archive/data.pkl")
    tracemalloc.start()
    with pytest.raises(PipelineError, match=r"model\.pt") as caught:
        load_model(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert is_one_line(caught.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_not_unpacked_whatever_size_it_promises(tmp_path, compression):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", bytes(6 * 10**7))
        archive.infolist()[0].file_size = 100
    assert path.stat().st_size < 10**6
    tracemalloc.start()
    with pytest.raises(PipelineError, match="not readable as a model"):
        read_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@EXAMPLES
@given(data=st.data())
def test_a_damaged_model_is_used_or_refused_in_one_line(project, tmp_path, data):
    content = damaged(torch.load(project.model, weights_only=True), data)
    torch.save(content, tmp_path / "model.pt")
    with succeeds_or_fails_in_one_line():
        loaded = load_model(tmp_path / "model.pt")
        assert all(len(f"{value}") < 10_000 for value in (*loaded.training.values(), *loaded.audit.values()))


@pytest.fixture(scope="module")
def checkpoint(project):
    """What training can be continued from, its settings and its fingerprint."""
    pairs = read_pairs(project.folder / "training_pairs.json")
    content = torch.load(project.folder / "grain_processor_v2_output/checkpoints/latest.pt", weights_only=True)
    return content, pairs.settings, fingerprint(pairs, TrainOptions(epochs=PROJECT_EPOCHS))


@EXAMPLES
@given(data=st.data())
def test_a_damaged_training_checkpoint_is_resumed_or_refused_in_one_line(checkpoint, tmp_path, data):
    content, its_settings, identity = checkpoint
    torch.save(damaged(content, data), tmp_path / "latest.pt")
    model = GrainModel(its_settings)
    optimizer = Adam(model.parameters())
    with succeeds_or_fails_in_one_line():
        load_state(read_checkpoint(tmp_path / "latest.pt"), tmp_path / "latest.pt", identity, model, optimizer)
        model(torch.rand(1, 128, 8), torch.rand(1, 128, 8), torch.ones(1)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1e-30, 1e10, 3e38])
def test_weights_of_any_magnitude_give_finite_audio_or_one_line(project, scale):
    processor = GrainProcessor.load(project.model, "cpu")
    weights = processor.loaded.weights
    weights["scale"] = np.full_like(weights["scale"], scale)
    with np.errstate(over="ignore"):
        weights["detector.mix.weight"] = weights["detector.mix.weight"] * np.float32(scale)
    with succeeds_or_fails_in_one_line():
        z = processor.render(drone(duration_s=0.5), SR, grain=-1)
        assert np.isfinite(z).all()


@EXAMPLES
@given(data=st.data())
def test_damaged_preferences_of_the_window_are_replaced_by_usable_values(tmp_path, data):
    content = damaged(
        {"folder": "/x", "geometry": "900x600", "volume": 0.5, "is_dark": True, "recent": ["/x/a.wav"]}, data
    )
    (tmp_path / "window.json").write_text(json.dumps(content))
    remembered = read_preferences(tmp_path / "window.json")
    assert 0 <= remembered.volume <= 1
    assert len(remembered.geometry) < 10
    assert "\0" not in remembered.folder


def test_deeply_nested_preferences_are_ignored(tmp_path):
    (tmp_path / "window.json").write_text("[" * 100_000)
    assert read_preferences(tmp_path / "window.json").recent == []


@EXAMPLES
@given(data=st.data())
def test_a_damaged_batch_log_can_be_read_and_claims_nothing(project, tmp_path, data):
    source, output = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    output.parent.mkdir(exist_ok=True)
    for path in (source, output):
        path.write_bytes(b"x")
    record = {
        "output": "a.wav",
        "input": str(source),
        "asked": [1.0, None],
        "model_and_subtype": ["x", None],
        "stamps": [[1, 1], [1, 1]],
    }
    (output.parent / "grain_renderings.jsonl").write_text(json.dumps(damaged(record, data)) + "\n" + "[" * 100_000)
    log = BatchLog(output.parent, project.model, None)
    job = Job(source, output, RenderTarget(1.0))
    assert not log.has(job)
    log.owns(job)

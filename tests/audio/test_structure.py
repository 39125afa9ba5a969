"""The length of a sound is what can be decoded, whatever its header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR

from neural_grain.audio.chunks import container_at, read_chunks
from neural_grain.audio.sound import open_sound
from neural_grain.audio.structure import find_streams
from neural_grain.base.errors import PipelineError

SECONDS = 3


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Three seconds of stereo: noise, whose middle is quiet, so that a variable bit rate varies."""
    y = 0.3 * np.random.default_rng(0).standard_normal((SECONDS * SR, 2)).clip(-3, 3) / 3
    y[SR // 2 : 5 * SR // 2] *= 1e-4
    return y


def decoded(path: Path) -> np.ndarray:
    """All samples of a file, shape (samples, channels)."""
    sound = open_sound(path)
    y = np.concatenate(list(sound.blocks()))
    assert y.shape == (sound.n_samples, sound.channels)
    return y


def write(path: Path, y: np.ndarray, subtype: str | None = None, container: str | None = None) -> bytes:
    """Write a sound, and return the bytes of the file."""
    sf.write(path, y, SR, subtype, format=container)
    return path.read_bytes()


def with_data_size(raw: bytes, path: Path, size: int) -> None:
    """Write a file again with another size of its samples, and of the whole file where there is one."""
    path.write_bytes(raw)
    with open(path, "r+b") as file:
        container = container_at(file)
        data = next(chunk for chunk in read_chunks(file, container) if chunk.id == container.data_id)
        file.seek(data.start - container.size_bytes)
        file.write(size.to_bytes(container.size_bytes, container.byteorder))
        if container.size_bytes == 4:
            file.seek(4)
            file.write(min(size, 0xFFFF_FFFF).to_bytes(4, container.byteorder))


class TestUnknownLengths:
    @pytest.mark.parametrize(
        ("extension", "size"),
        [
            *(
                ("wav", size)
                for size in (0, 0x7FFFF000, 0x7FFFF024 - 36, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFF000)
            ),
            *(("aiff", size) for size in (0, 0x7F000008, 0xFFFFFFFF)),
            *(("caf", size) for size in (2**64 - 1, 0)),
            *(("w64", size) for size in (2**63 - 1, 24)),  # 24 is the length of the header, so there are 0 bytes
        ],
    )
    def test_the_samples_go_to_the_end_of_the_file(self, tmp_path, sound, extension, size):
        raw = write(tmp_path / f"a.{extension}", sound, "PCM_16")
        with_data_size(raw, tmp_path / f"b.{extension}", size)
        np.testing.assert_array_equal(decoded(tmp_path / f"b.{extension}"), decoded(tmp_path / f"a.{extension}"))

    def test_an_rf64_without_a_length(self, tmp_path, sound):
        raw = bytearray(write(tmp_path / "a.wav", sound, "PCM_16", "RF64"))
        at = raw.index(b"ds64") + 8
        raw[at : at + 24] = bytes(24)
        (tmp_path / "b.wav").write_bytes(raw)
        np.testing.assert_array_equal(decoded(tmp_path / "b.wav"), decoded(tmp_path / "a.wav"))

    def test_an_au_without_a_length(self, tmp_path, sound):
        raw = write(tmp_path / "a.au", sound, "PCM_16")
        (tmp_path / "b.au").write_bytes(raw[:8] + b"\xff" * 4 + raw[12:])
        np.testing.assert_array_equal(decoded(tmp_path / "b.au"), decoded(tmp_path / "a.au"))

    def test_a_flac_without_a_length(self, tmp_path, sound):
        raw = bytearray(write(tmp_path / "a.flac", sound, "PCM_16"))
        raw[21] &= 0xF0
        raw[22:26] = bytes(4)
        (tmp_path / "b.flac").write_bytes(raw)
        np.testing.assert_array_equal(decoded(tmp_path / "b.flac"), decoded(tmp_path / "a.flac"))

    @pytest.mark.parametrize("bitrate_mode", ["CONSTANT", "VARIABLE"])
    def test_an_mp3_without_a_length(self, tmp_path, sound, bitrate_mode):
        with sf.SoundFile(tmp_path / "a.mp3", "w", SR, 2, bitrate_mode=bitrate_mode, compression_level=0.5) as file:
            file.write(sound)
        without_xing(tmp_path / "a.mp3", tmp_path / "b.mp3")
        y, z = decoded(tmp_path / "a.mp3"), decoded(tmp_path / "b.mp3")
        # Without the header the decoder does not know how many samples the encoder added at the start and the end.
        assert 0 <= len(z) - len(y) < 3 * 1152
        offset = np.argmax(np.correlate(z[: SR // 4, 0], y[: SR // 8, 0], "valid"))
        np.testing.assert_allclose(z[offset : offset + len(y)], y, atol=1e-5)

    def test_an_mp3_that_states_0_frames(self, tmp_path, sound):
        raw = bytearray(write(tmp_path / "a.mp3", sound))
        at = max(raw.find(b"Xing"), raw.find(b"Info"))
        raw[at + 8 : at + 12] = bytes(4)
        (tmp_path / "b.mp3").write_bytes(raw)
        assert len(sound) <= len(decoded(tmp_path / "b.mp3")) < len(sound) + 4 * 1152

    def test_a_wav_that_is_really_empty_stays_empty(self, tmp_path, sound):
        raw = write(tmp_path / "a.wav", sound[:0], "PCM_16") + b"LIST\x04\x00\x00\x00INFO"
        (tmp_path / "a.wav").write_bytes(raw[:4] + (len(raw) - 8).to_bytes(4, "little") + raw[8:])
        assert open_sound(tmp_path / "a.wav").n_samples == 0


def without_xing(source: Path, output: Path) -> None:
    """Write an MP3 without its first frame, which states its length."""
    raw = source.read_bytes()
    at = max(raw.find(b"Xing"), raw.find(b"Info"))
    start = raw.rfind(b"\xff\xfb", 0, at)
    following = raw.index(raw[start : start + 2], at)
    output.write_bytes(raw[following:])


class TestJoinedStreams:
    @pytest.mark.parametrize(
        ("name", "subtype"),
        [("wav", "PCM_16"), ("aiff", "PCM_24"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("opus", "OPUS"), ("mp3", None)],
    )
    def test_all_of_them_are_read(self, tmp_path, sound, name, subtype):
        sr, container = (48000, "OGG") if name == "opus" else (SR, None)
        paths = [tmp_path / f"{i}.{name}" for i in range(3)]
        for i, path in enumerate(paths):
            sf.write(path, sound[: (i + 1) * SR // 2], sr, subtype, format=container)
        joined = tmp_path / f"joined.{name}"
        joined.write_bytes(b"".join(path.read_bytes() for path in paths))
        np.testing.assert_array_equal(decoded(joined), np.concatenate([decoded(path) for path in paths]))

    def test_mp3s_without_a_stated_length_in_one_file(self, tmp_path, sound):
        for i in range(2):
            sf.write(tmp_path / f"{i}.mp3", sound[: (i + 1) * SR], SR)
            without_xing(tmp_path / f"{i}.mp3", tmp_path / f"x{i}.mp3")
        raw = b"".join((tmp_path / f"x{i}.mp3").read_bytes() for i in range(2))
        (tmp_path / "joined.mp3").write_bytes(raw)
        assert open_sound(tmp_path / "joined.mp3").n_samples == pytest.approx(3 * SR, abs=5 * 1152)

    def test_tags_between_mp3s_are_no_sound(self, tmp_path, sound):
        raw = write(tmp_path / "a.mp3", sound)
        id3 = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
        (tmp_path / "b.mp3").write_bytes(raw + b"TAG" + bytes(125) + id3 + raw + b"TAG" + bytes(125))
        y = decoded(tmp_path / "a.mp3")
        np.testing.assert_array_equal(decoded(tmp_path / "b.mp3"), np.concatenate([y, y]))

    def test_streams_of_different_kinds_are_refused(self, tmp_path, sound):
        (tmp_path / "a.flac").write_bytes(write(tmp_path / "1.flac", sound) + write(tmp_path / "2.flac", sound[:, 0]))
        with pytest.raises(PipelineError, match="several streams of different kinds: 44100 Hz with 2 channels and"):
            open_sound(tmp_path / "a.flac")


class TestDamage:
    @pytest.mark.parametrize("extension", ["wav", "aiff", "caf", "w64", "au", "rf64"])
    def test_a_file_that_was_cut_off_is_refused(self, tmp_path, sound, extension):
        raw = write(tmp_path / f"a.{extension}", sound, "PCM_16", {"rf64": "RF64"}.get(extension))
        (tmp_path / f"b.{extension}").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(PipelineError, match=r"cut off: its header promises|malformed"):
            open_sound(tmp_path / f"b.{extension}")

    @pytest.mark.parametrize("extension", ["mp3", "flac"])
    def test_so_is_one_that_is_compressed(self, tmp_path, sound, extension):
        raw = write(tmp_path / f"a.{extension}", sound)
        (tmp_path / f"b.{extension}").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(PipelineError, match=r"damaged|not readable"):
            decoded(tmp_path / f"b.{extension}")

    def test_chunks_of_an_impossible_size_end_the_search(self, tmp_path):
        (tmp_path / "a.caf").write_bytes(b"caff\x00\x01\x00\x00" + (b"free" + b"\x7f" * 8) * 3)
        assert len(find_streams(tmp_path / "a.caf")) == 1


def test_an_ordinary_file_is_one_stream_without_a_new_header(tmp_path, sound):
    for extension in ("wav", "aiff", "flac", "ogg", "mp3", "caf", "w64", "au"):
        path = tmp_path / f"a.{extension}"
        write(path, sound)
        (stream,) = find_streams(path)
        assert (stream.prefix, stream.start, stream.stop) == (b"", 0, path.stat().st_size), extension
        assert stream.is_length_known

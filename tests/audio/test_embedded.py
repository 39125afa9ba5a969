"""What a file holds besides samples is kept, translated, or named."""

from __future__ import annotations

import base64
import os
import resource
import struct
from contextlib import nullcontext
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile as sf
from mutagen.aiff import AIFF
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, COMM, ID3, TBPM, TIT2, TPE1, TPE2, TXXX
from mutagen.mp3 import MP3
from mutagen.wave import WAVE

from neural_grain.audio.chunks import (
    RIFF,
    _write_total_size,
    container_at,
    read_body,
    read_chunks,
    rewrite_chunks,
)
from neural_grain.audio.embedded import copy_embedded
from neural_grain.audio.formats import output_format, read_format, written_sound
from neural_grain.audio.layout import check_layout
from neural_grain.audio.markers import markers_from_aiff
from neural_grain.audio.sound import open_sound
from neural_grain.audio.stated_layout import MASK_FIELD
from neural_grain.audio.tags import tags_from_vorbis
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write

SAMPLE_RATE = 48000  # one that Opus can have, too
TITLE = "Weiher, zweite Aufnahme: ü 日"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(60)
BROADCAST = b"take 3".ljust(320, b"\0") + b"2024-05-0105:12:33" + struct.pack("<QH", 123456789, 1) + bytes(254)
LOOP = struct.pack("<9I", 0, 0, 20833, 60, 0, 0, 0, 1, 0) + struct.pack("<6I", 0, 0, 100, 900, 0, 0)
CUE = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 100, b"data", 0, 0, 100)
WAV_CHUNKS = {
    b"smpl": LOOP,
    b"cue ": CUE,
    b"LIST": b"adtllabl" + struct.pack("<II", 8, 1) + b"hit\0",
    b"iXML": b"<BWFXML><SCENE>12A</SCENE></BWFXML>",
    b"acid": bytes(24),
    b"xyz1": b"of a program that nobody knows",
}
ID3_FILES = {".mp3": MP3, ".aiff": AIFF, ".wav": WAVE}
AIFF_CHUNKS = {b"MARK": struct.pack(">HHI", 1, 1, 100) + b"\x04loop\0", b"INST": bytes(20), b"AUTH": b"A. Person"}
CAF_CHUNKS = {b"mark": bytes(8), b"info": struct.pack(">I", 1) + b"title\0T\0", b"uuid": bytes(20)}


def write(path: Path, subtype: str = "PCM_16", channels: int = 1, container: str | None = None) -> Path:
    """A short file of noise."""
    y = 0.1 * np.random.default_rng(0).standard_normal((1001, channels))
    sf.write(path, y, SAMPLE_RATE, subtype, format=container)
    return path


def render(source: Path, output: Path) -> list[str]:
    """Write the samples of a file into a new one as a rendering does, with everything else; returns what is left."""
    stored, sound = read_format(source), open_sound(source)
    target = output_format(output, stored, sound)
    for _ in written_sound(output, sound.blocks(), sound, target).blocks():
        pass
    return copy_embedded(source, stored, output, target)


def add_chunks(path: Path, before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
    """Put chunks into a file."""
    with open(path, "rb") as file:
        container = container_at(file)
    rewrite_chunks(path, container, replaced={}, before_data=list(before.items()), after_data=list(after.items()))


def chunks_of(path: Path) -> dict[bytes, bytes]:
    """All chunks of a file by identifier, in their order."""
    with open(path, "rb") as file:
        container = container_at(file)
        assert container.alignment == 1 or path.stat().st_size % 2 == 0
        return {chunk.id: read_body(file, chunk) for chunk in read_chunks(file, container)}


class TestChunks:
    @pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
    def test_wav_to_wav_keeps_them_all_on_their_side_of_the_samples(self, tmp_path, container):
        source = write(tmp_path / "a.wav", "PCM_24", container=container)
        add_chunks(source, {b"bext": BROADCAST}, WAV_CHUNKS)
        assert render(source, tmp_path / "b.wav") == []
        kept = chunks_of(tmp_path / "b.wav")
        assert WAV_CHUNKS.items() <= kept.items()
        assert kept[b"bext"] == BROADCAST
        order = list(kept)
        assert order.index(b"bext") < order.index(b"data") < order.index(b"smpl")
        np.testing.assert_array_equal(sf.read(source)[0], sf.read(tmp_path / "b.wav")[0])
        size = int.from_bytes((tmp_path / "b.wav").read_bytes()[4:8], "little")
        assert size == (tmp_path / "b.wav").stat().st_size - 8

    @pytest.mark.parametrize(("extension", "chunks"), [("aiff", AIFF_CHUNKS), ("caf", CAF_CHUNKS)])
    def test_so_do_aiff_and_caf(self, tmp_path, extension, chunks):
        source = write(tmp_path / f"a.{extension}")
        add_chunks(source, {}, chunks)
        assert render(source, tmp_path / f"b.{extension}") == []
        assert chunks.items() <= chunks_of(tmp_path / f"b.{extension}").items()
        np.testing.assert_array_equal(sf.read(source)[0], sf.read(tmp_path / f"b.{extension}")[0])

    @pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "caf"])
    def test_other_containers_name_what_they_have_no_place_for(self, tmp_path, extension):
        source = write(tmp_path / "a.wav")
        add_chunks(source, {b"bext": BROADCAST}, WAV_CHUNKS)
        left = render(source, tmp_path / f"b.{extension}")
        assert left == ["broadcast data", "iXML", "tempo", "xyz1", "loop points", "cue points", "labels"]

    def test_markers_and_loops_go_from_wav_to_aiff_and_back(self, tmp_path):
        instrument = struct.pack("<Bbb4B", 60, 0, -3, 24, 96, 1, 100)
        labels = b"adtllabl" + struct.pack("<II", 8, 1) + b"hit\0"
        chunks = {b"cue ": CUE, b"LIST": labels, b"smpl": LOOP, b"inst": instrument}
        add_chunks(write(tmp_path / "a.wav"), {}, chunks)
        assert render(tmp_path / "a.wav", tmp_path / "b.aiff") == []
        assert render(tmp_path / "b.aiff", tmp_path / "c.wav") == []
        kept = chunks_of(tmp_path / "c.wav")
        for name in (b"cue ", b"LIST", b"inst"):
            assert kept[name] == chunks[name], name
        assert struct.unpack("<15I", kept[b"smpl"])[3:] == struct.unpack("<15I", LOOP)[3:]

    def test_libsndfile_finds_the_loop_in_the_aiff(self, tmp_path):
        add_chunks(write(tmp_path / "a.wav"), {}, {b"smpl": LOOP, b"cue ": CUE})
        render(tmp_path / "a.wav", tmp_path / "b.aiff")
        with sf.SoundFile(tmp_path / "b.aiff") as file:
            log = " ".join(file.extra_info.split())  # lists what libsndfile parsed
        assert "Base Note : 60" in log
        assert "=> forward begin : 2 end : 3" in log
        assert "Mark ID : 2 Position : 100" in log
        assert "Mark ID : 3 Position : 901" in log

    def test_an_aiff_has_places_for_two_loops_and_none_that_plays_backward(self, tmp_path):
        loops = b"".join(
            struct.pack("<6I", i, mode, 100 * i, 100 * i + 50, 0, 0) for i, mode in enumerate((0, 2, 1, 0))
        )
        add_chunks(write(tmp_path / "a.wav"), {}, {b"smpl": LOOP[:28] + struct.pack("<II", 4, 0) + loops})
        assert render(tmp_path / "a.wav", tmp_path / "b.aiff") == ["some loops"]

    def test_a_chunk_of_markers_that_is_too_short_is_named(self, tmp_path):
        add_chunks(write(tmp_path / "a.wav"), {}, {b"smpl": bytes(7)})
        assert render(tmp_path / "a.wav", tmp_path / "b.aiff") == ["markers (damaged)"]

    def test_a_big_endian_wav_gives_its_samples_only(self, tmp_path):
        y = 0.1 * np.random.default_rng(0).standard_normal(1001)
        sf.write(tmp_path / "a.wav", y, SAMPLE_RATE, "PCM_16", endian="BIG")
        assert render(tmp_path / "a.wav", tmp_path / "b.wav") == ["all but the samples of a big-endian WAV"]
        np.testing.assert_array_equal(sf.read(tmp_path / "b.wav")[0], sf.read(tmp_path / "a.wav")[0])

    def test_files_that_were_joined_name_what_the_later_ones_hold(self, tmp_path):
        path = write(tmp_path / "a.wav")
        add_chunks(path, {}, {b"smpl": LOOP})
        path.write_bytes(path.read_bytes() * 2)
        assert render(path, tmp_path / "b.wav") == ["what is embedded in the joined files after the first"]
        assert chunks_of(tmp_path / "b.wav")[b"smpl"] == LOOP
        assert open_sound(tmp_path / "b.wav").n_samples == 2002

    def test_a_name_that_is_too_long_for_an_aiff_is_cut_between_two_letters(self, tmp_path):
        name = ("x" + 200 * "ü").encode() + b"\0"
        labels = b"adtllabl" + struct.pack("<II", 4 + len(name), 1) + name
        add_chunks(write(tmp_path / "a.wav"), {}, {b"cue ": CUE, b"LIST": labels})
        assert render(tmp_path / "a.wav", tmp_path / "b.aiff") == []
        markers = markers_from_aiff(chunks_of(tmp_path / "b.aiff"))
        assert [marker.name for marker in markers.markers] == ["x" + 126 * "ü"]

    @pytest.mark.parametrize(("n_bytes", "fits"), [(2**32 + 7, True), (2**32 + 8, False)])
    def test_a_file_whose_length_has_no_place_in_its_header_is_refused(self, tmp_path, n_bytes, fits):
        with open(tmp_path / "sparse.wav", "w+b") as file:
            file.truncate(n_bytes)
            file.seek(0, os.SEEK_END)
            with nullcontext() if fits else pytest.raises(PipelineError, match="longer than 4 GB"):
                _write_total_size(file, RIFF, None)
            file.seek(4)
            assert file.read(4) == (b"\xff\xff\xff\xff" if fits else bytes(4))

    def test_no_file_is_open_when_it_is_replaced(self, tmp_path, monkeypatch):
        """Windows replaces no file that is open."""
        replace, replaced = os.replace, []

        def replace_closed(source: Path, target: Path) -> None:
            links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
            is_open = [link.exists() and link.samefile(path) for link in links for path in (source, target)]
            replaced.append(any(is_open))
            replace(source, target)

        path = write(tmp_path / "a.wav")
        monkeypatch.setattr(os, "replace", replace_closed)
        add_chunks(path, {}, WAV_CHUNKS)
        assert replaced == [False]

    def test_chunks_that_are_cut_off_are_not_copied(self, tmp_path):
        source = write(tmp_path / "a.wav")
        source.write_bytes(source.read_bytes() + b"smpl\xff\xff\xff\x7fabc")
        render(source, tmp_path / "b.wav")
        assert b"smpl" not in chunks_of(tmp_path / "b.wav")


def picture() -> Picture:
    """A front cover."""
    cover = Picture()
    cover.data, cover.mime, cover.type = PICTURE, "image/png", 3
    return cover


def tag_everything(path: Path) -> None:
    """Write two artists, a title in several alphabets, a field of one's own and a picture."""
    fields = {"TITLE": [TITLE], "ARTIST": ["A. Person", "B. Person"], "BPM": ["72"], "LOOPSTART": ["1000"]}
    if path.suffix in ID3_FILES:
        file = ID3_FILES[path.suffix](path)
        file.add_tags()
        file.tags.add(TIT2(encoding=3, text=fields["TITLE"]))
        file.tags.add(TPE1(encoding=3, text=fields["ARTIST"]))
        file.tags.add(TBPM(encoding=3, text=fields["BPM"]))
        file.tags.add(TXXX(encoding=3, desc="LOOPSTART", text=fields["LOOPSTART"]))
        file.tags.add(APIC(encoding=3, mime="image/png", type=3, desc="", data=PICTURE))
    else:
        file = mutagen.File(path)
        file.update(fields)
        if isinstance(file, FLAC):
            file.add_picture(picture())
        else:
            file["METADATA_BLOCK_PICTURE"] = [base64.b64encode(picture().write()).decode()]
    file.save()


def tags_of(path: Path) -> dict[str, list]:
    """The fields that `tag_everything` writes, as mutagen reads them, and the data of the picture."""
    if path.suffix in ID3_FILES:
        tags = ID3_FILES[path.suffix](path).tags
        names = {"TITLE": "TIT2", "ARTIST": "TPE1", "BPM": "TBPM", "LOOPSTART": "TXXX:LOOPSTART"}
        fields = {name: list(map(str, tags[frame].text)) for name, frame in names.items()}
        return fields | {"PICTURE": [tags.getall("APIC")[0].data]}
    file = mutagen.File(path)
    fields = {name: list(file[name]) for name in ("TITLE", "ARTIST", "BPM", "LOOPSTART")}
    if isinstance(file, FLAC):
        return fields | {"PICTURE": [file.pictures[0].data]}
    return fields | {"PICTURE": [Picture(base64.b64decode(file["METADATA_BLOCK_PICTURE"][0])).data]}


class TestTags:
    @pytest.mark.parametrize("source", ["flac", "ogg", "opus", "mp3", "aiff", "wav"])
    @pytest.mark.parametrize("output", ["flac", "ogg", "opus", "mp3", "aiff", "wav"])
    def test_they_arrive_whole_in_every_container(self, tmp_path, source, output):
        kinds = {"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}
        path = write(
            tmp_path / f"a.{source}", kinds.get(source, "PCM_16"), container="OGG" if source == "opus" else None
        )
        tag_everything(path)
        expected = tags_of(path)
        assert render(path, tmp_path / f"b.{output}") == []
        assert tags_of(tmp_path / f"b.{output}") == expected
        assert expected["TITLE"] == [TITLE]

    def test_libsndfile_reads_the_texts_of_a_wav(self, tmp_path):
        path = write(tmp_path / "a.flac")
        tag_everything(path)
        render(path, tmp_path / "b.wav")
        with sf.SoundFile(tmp_path / "b.wav") as file:
            assert file.title == TITLE
            assert file.artist == "A. Person; B. Person"

    def test_texts_of_wav_and_caf_become_tags(self, tmp_path):
        for extension in ("wav", "caf"):
            with sf.SoundFile(tmp_path / f"a.{extension}", "w", SAMPLE_RATE, 1, "PCM_16") as file:
                file.title, file.artist = "T", "A. Person"
                file.write(np.zeros(100))
            render(tmp_path / f"a.{extension}", tmp_path / f"{extension}.flac")
            tags = FLAC(tmp_path / f"{extension}.flac")
            assert tags["TITLE"] == ["T"]
            assert tags["ARTIST"] == ["A. Person"]

    def test_caf_and_w64_name_what_they_have_no_place_for(self, tmp_path):
        path = write(tmp_path / "a.flac")
        tag_everything(path)
        assert render(path, tmp_path / "b.caf") == ["pictures"]
        assert render(path, tmp_path / "b.w64") == ["tags"]
        render(tmp_path / "b.caf", tmp_path / "c.flac")
        assert FLAC(tmp_path / "c.flac")["TITLE"] == [TITLE]

    def test_an_mp3_keeps_its_version_and_frames_that_only_id3_has(self, tmp_path):
        path = write(tmp_path / "a.mp3", "MPEG_LAYER_III")
        tags = ID3()
        tags.add(TIT2(encoding=1, text=[TITLE]))
        tags.add(TPE2(encoding=1, text=["Various"]))
        tags.add(COMM(encoding=1, lang="deu", desc="", text=["am Morgen"]))
        tags.add(mutagen.id3.PRIV(owner="someone", data=b"\1\2\3"))
        tags.update_to_v23()
        tags.save(path, v1=2, v2_version=3)
        ape = APEv2()
        ape["Mood"] = "calm"
        ape.save(path)
        assert render(path, tmp_path / "b.mp3") == []
        kept = ID3(tmp_path / "b.mp3")
        assert kept.version == (2, 3, 0)
        assert {frame: kept[frame] for frame in tags} == dict(tags)
        assert APEv2(tmp_path / "b.mp3")["Mood"] == "calm"

    def test_frames_that_only_id3_has_are_named_when_they_are_left_behind(self, tmp_path):
        path = write(tmp_path / "a.mp3", "MPEG_LAYER_III")
        tags = ID3()
        tags.add(mutagen.id3.PRIV(owner="someone", data=b"\1\2\3"))
        tags.save(path)
        ape = APEv2()
        ape["Mood"] = "calm"
        ape.save(path)
        assert render(path, tmp_path / "b.flac") == ["APE tags", "ID3 PRIV"]

    def test_what_is_left_behind_is_named_once(self, tmp_path):
        path = write(tmp_path / "a.mp3", "MPEG_LAYER_III")
        tags = ID3()
        for i in range(3):
            tags.add(mutagen.id3.PRIV(owner=f"program {i}", data=b"\1"))
        tags.save(path)
        assert render(path, tmp_path / "b.flac") == ["ID3 PRIV"]

    def test_a_picture_that_is_too_large_for_a_flac_is_named_and_the_texts_are_kept(self, tmp_path):
        path = write(tmp_path / "a.mp3", "MPEG_LAYER_III")
        tags = ID3()
        tags.add(TIT2(encoding=3, text=[TITLE]))
        tags.add(APIC(encoding=3, mime="image/png", type=3, desc="", data=bytes(2**24)))
        tags.save(path)
        assert render(path, tmp_path / "b.flac") == ["pictures"]
        assert FLAC(tmp_path / "b.flac")["TITLE"] == [TITLE]

    @pytest.mark.parametrize("output", ["flac", "ogg", "mp3", "wav"])
    def test_a_disk_that_is_too_full_for_the_tags_gives_one_line(self, tmp_path, output):
        path = write(tmp_path / "a.flac")
        tag_everything(path)
        file = FLAC(path)
        file["LYRICS"] = ["la " * 30_000]
        file.save()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        try:
            with pytest.raises(PipelineError) as caught, atomic_write(tmp_path / f"b.{output}") as temporary:
                render(path, temporary)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(caught.value) == "can't write (File too large)"  # the caller adds the name of the file

    def test_an_ogg_page_without_packets_is_damage_of_the_tags(self, tmp_path):
        path = tmp_path / "a.ogg"
        sf.write(path, np.zeros(9999), SAMPLE_RATE)
        data = path.read_bytes()
        page = data.index(b"OggS", 4)  # the second one, which holds the tags
        n_segments = data[page + 26]
        end = page + 27 + n_segments + sum(data[page + 27 : page + 27 + n_segments])
        path.write_bytes(data[: page + 26] + b"\0" + data[end:])
        with pytest.raises(mutagen.MutagenError):
            tags_from_vorbis(path)

    def test_damaged_tags_are_named_and_do_not_stop_the_rendering(self, tmp_path):
        path = write(tmp_path / "a.mp3", "MPEG_LAYER_III")
        path.write_bytes(b"ID3\x09\x00\x00\x00\x00\x00\x0a" + bytes(10) + path.read_bytes())
        assert render(path, tmp_path / "b.flac") == ["tags (damaged)"]
        assert render(path, tmp_path / "b.mp3") == ["tags (damaged)"]

    def test_a_file_without_tags_gets_none(self, tmp_path):
        path = write(tmp_path / "a.wav")
        for extension in ("wav", "aiff", "mp3"):
            assert render(path, tmp_path / f"b.{extension}") == []
            assert not (ID3_FILES[f".{extension}"](tmp_path / f"b.{extension}").tags)


SIDE, BACK = 0x60F, 0x3F


def write_surround(path: Path, mask: int, channels: int = 6) -> tuple[np.ndarray, Path]:
    """A WAV whose channels are sines of different frequencies."""
    t = np.arange(24000) / 48000
    y = np.stack([0.2 * np.sin(2 * np.pi * (60 if i == 3 else 300 * (i + 1)) * t) for i in range(channels)], 1)
    sf.write(path, y, 48000, "PCM_16", format="WAVEX")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"fmt ") + 8 + 20
    raw[at : at + 4] = mask.to_bytes(4, "little")
    path.write_bytes(raw)
    return y, path


class TestSurround:
    @pytest.mark.parametrize("extension", ["wav", "aiff", "caf", "flac", "w64"])
    @pytest.mark.parametrize("mask", [SIDE, BACK, 0x107 | 0x600])
    def test_the_layout_is_kept(self, tmp_path, extension, mask):
        _, path = write_surround(tmp_path / "a.wav", mask)
        render(path, tmp_path / f"b.{extension}")
        assert read_format(tmp_path / f"b.{extension}").mask == mask
        render(tmp_path / f"b.{extension}", tmp_path / "c.wav")
        assert read_format(tmp_path / "c.wav").mask == mask

    @pytest.mark.parametrize("output", ["wav", "aiff", "caf", "w64", "flac"])
    @pytest.mark.parametrize("stated", ["0x1FFFFFFFF", "-5", "0x", ""])
    def test_a_flac_that_states_an_impossible_layout_has_none(self, tmp_path, output, stated):
        path = write(tmp_path / "a.flac")
        file = FLAC(path)
        file[MASK_FIELD] = [stated]
        file.save()
        assert render(path, tmp_path / f"b.{output}") == []
        assert open_sound(tmp_path / f"b.{output}").n_samples == 1001

    @pytest.mark.parametrize("extension", ["ogg", "opus"])
    @pytest.mark.parametrize("mask", [SIDE, BACK])
    def test_ogg_gets_the_channels_in_its_own_order_and_gives_them_back_in_ours(self, tmp_path, extension, mask):
        y, path = write_surround(tmp_path / "a.wav", mask)
        render(path, tmp_path / f"b.{extension}")
        stored, _ = sf.read(tmp_path / f"b.{extension}")  # libsndfile does not reorder
        read = np.concatenate(list(open_sound(tmp_path / f"b.{extension}").blocks()))
        front = y[5000:15000]
        # FL FC FR, two surround channels and LFE, by the Vorbis I specification.
        for i, j in enumerate((0, 2, 1, 4, 5, 3)):
            assert np.corrcoef(stored[5000:15000, i], front[:, j])[0, 1] > 0.9
        for i in range(6):
            assert np.corrcoef(read[5000:15000, i], front[:, i])[0, 1] > 0.9

    @pytest.mark.parametrize(
        ("subtype", "channels", "mask", "is_allowed"),
        [
            ("VORBIS", 6, BACK, True), ("VORBIS", 6, SIDE, True), ("OPUS", 8, 0x63F, True), ("OPUS", 4, 0x33, True),
            ("OPUS", 4, 0, True), ("OPUS", 2, 0, True), ("VORBIS", 6, 0, False), ("OPUS", 6, 0, False),
            ("OPUS", 4, 0xF, False), ("VORBIS", 6, 0x13F & ~0x8 | 0x8 << 13, False), ("ALAC_16", 6, BACK, True),
            ("ALAC_16", 6, 0, False), ("PCM_16", 6, 0, True), ("VORBIS", 3, 0x7, True), ("VORBIS", 12, 0, True),
        ],
    )  # fmt: skip
    def test_a_codec_that_takes_the_number_for_the_layout_gets_no_other(self, subtype, channels, mask, is_allowed):
        if is_allowed:
            check_layout(subtype, channels, mask)
        else:
            with pytest.raises(PipelineError, match=f"takes {channels} channels for FL FR"):
                check_layout(subtype, channels, mask)

    def test_alac_has_its_own_order(self, tmp_path):
        y, path = write_surround(tmp_path / "a.wav", BACK)
        target = output_format(tmp_path / "b.caf", read_format(path), open_sound(path), subtype="ALAC_16")
        for _ in written_sound(tmp_path / "b.caf", open_sound(path).blocks(), open_sound(path), target).blocks():
            pass
        stored, _ = sf.read(tmp_path / "b.caf")
        np.testing.assert_array_equal(stored, sf.read(path)[0][:, (2, 0, 1, 4, 5, 3)])  # C L R Ls Rs LFE
        read = np.concatenate(list(open_sound(tmp_path / "b.caf").blocks()))
        np.testing.assert_allclose(read, y, atol=2**-15)

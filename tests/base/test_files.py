"""Hidden files of dead runs are removed and those of living runs are not; no two runs write one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import (
    append_line,
    atomic_write,
    flush_written_files,
    hidden_path,
    prepare_folder,
    remove_leftovers,
    run_lock,
)
from neural_grain.base.records import write_json

IMPORTS = """
import json, sys, threading, time
from pathlib import Path
from neural_grain.base.cli import exit_process
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write, remove_leftovers, run_lock
"""


def start_python(code: str, cwd: Path) -> subprocess.Popen:
    """Run some code that can use the names of IMPORTS in another process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", IMPORTS + code], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)


def write_text(path: Path, text: str = "new") -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestLeftovers:
    def test_those_of_killed_runs_are_removed_and_those_of_users_and_living_runs_stay(self, tmp_path):
        dead_part, alive_part = (hidden_path(tmp_path / name, "part") for name in ("dead.wav", "alive.wav"))
        dead_lock = hidden_path(tmp_path / "x", "lock")
        users = [tmp_path / name for name in (".grain-notes", ".grain-0123456789abcdef.part2", ".x.part", "a.part.wav")]
        for path in (dead_part, dead_lock, *users):
            path.write_bytes(b"x")
        (tmp_path / ".grain-0123456789abcdef.part").mkdir()
        (tmp_path / ".grain-0123456789abcde0.part").symlink_to(users[0])
        other = start_python(
            "with atomic_write(Path('alive.wav')) as part:\n"
            "    part.touch(); print('writing', flush=True); time.sleep(60)",
            tmp_path,
        )
        assert other.stdout.readline() == "writing\n"
        prepare_folder(tmp_path)
        assert not dead_part.exists()
        assert not dead_lock.exists()
        assert alive_part.exists()
        assert all(path.exists() for path in users)
        other.kill()
        other.wait()
        prepare_folder(tmp_path)
        assert not alive_part.exists()
        assert len(names(tmp_path)) == len(users) + 2

    def test_a_process_that_ends_leaves_none_although_its_threads_still_write(self, tmp_path):
        other = start_python(
            "def write(name):\n"
            "    with atomic_write(Path(name)) as part, part.open('w') as file:\n"
            "        file.write('x'); ready.wait(); time.sleep(60)\n"
            "ready = threading.Barrier(5)\n"
            "for i in range(4): threading.Thread(target=write, args=[f'{i}.wav'], daemon=True).start()\n"
            "ready.wait(); exit_process(3)",
            tmp_path,
        )
        assert other.wait(60) == 3
        assert names(tmp_path) == []

    def test_a_process_ends_although_a_hidden_file_can_not_be_removed(self, tmp_path):
        other = start_python(
            "def write():\n"
            "    with atomic_write(Path('x.wav')) as part:\n"
            "        part.mkdir(); ready.set(); time.sleep(60)\n"  # as on Windows, where no open file can be removed
            "ready = threading.Event()\n"
            "threading.Thread(target=write, daemon=True).start()\n"
            "ready.wait(); exit_process(3)",
            tmp_path,
        )
        assert other.wait(60) == 3

    def test_a_folder_that_is_gone_holds_none(self, tmp_path):
        remove_leftovers(tmp_path / "gone")


@pytest.fixture
def flushes(monkeypatch) -> list[tuple[Path, bool]]:
    """What was flushed to the disk, and whether x.json was in place by then."""
    calls, fsync = [], os.fsync

    def fsync_and_note(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append((path, path.with_name("x.json").exists() or (path / "x.json").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_and_note)
    return calls


class TestAtomicWrite:
    def test_replaces_the_file_and_leaves_nothing_else(self, tmp_path):
        path = tmp_path / "x.json"
        path.write_text("old")
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert names(tmp_path) == ["x.json"]

    def test_keeps_the_old_file_and_leaves_nothing_else_if_it_fails(self, tmp_path):
        path = tmp_path / "x.json"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
            1 / temporary.write_text("")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["x.json"]

    def test_flushes_the_file_before_it_is_renamed_and_the_folder_afterwards(self, tmp_path, flushes):
        path = tmp_path / "x.json"
        write_text(path)
        assert flushes == [(hidden_path(path, "part"), False), (tmp_path, True)]

    def test_an_appended_line_is_flushed_and_so_is_the_name_of_a_new_file(self, tmp_path, flushes):
        path = tmp_path / "log"
        append_line(path, "a")
        assert flushes == [(path, False), (tmp_path, False)]
        append_line(path, "b")
        assert flushes[2:] == [(path, False)]
        assert path.read_text() == "a\nb\n"

    def test_a_group_of_files_is_flushed_in_one_call(self, tmp_path, flushes, monkeypatch):
        groups = []
        monkeypatch.setattr(os, "sync", lambda: groups.append(names(tmp_path)))
        for name in ("a.npy", "b.npy"):
            with atomic_write(tmp_path / name, flush=False) as temporary:
                temporary.touch()
        flush_written_files()
        assert (flushes, groups) == ([], [["a.npy", "b.npy"]])

    def test_each_file_of_a_group_is_flushed_where_the_system_has_no_call_for_that(
        self, tmp_path, flushes, monkeypatch
    ):
        monkeypatch.delattr(os, "sync")
        with atomic_write(tmp_path / "x.json", flush=False) as temporary:
            temporary.touch()
        flush_written_files()
        assert len(flushes) == 2

    def test_says_in_one_line_that_its_folder_was_replaced_meanwhile(self, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()

        def write() -> None:
            with atomic_write(folder / "x.json") as temporary:
                temporary.touch()
                folder.rename(tmp_path / "moved")
                folder.touch()

        with pytest.raises(PipelineError, match=r"x\.json: can't write \(Not a directory\)"):
            write()

    def test_works_for_a_name_of_255_bytes(self, tmp_path):
        path = tmp_path / ("\N{MUSICAL SYMBOL G CLEF}" * 62 + "abc.wav")
        write_json(path, {})
        assert names(tmp_path) == [path.name]


class TestLocks:
    def test_a_run_can_write_the_file_that_it_has_locked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with run_lock(tmp_path / "x.json"):
            write_text(Path("x.json"))
            write_text(Path("x.json"), "newer")
            with ThreadPoolExecutor(1) as pool, pytest.raises(PipelineError, match="another run is writing it"):
                pool.submit(write_text, Path("x.json")).result()  # still locked after the inner locks have ended
        assert (tmp_path / "x.json").read_text() == "newer"
        assert names(tmp_path) == ["x.json"]

    @pytest.mark.parametrize("lock", ["run_lock", "atomic_write"])
    def test_a_second_process_is_refused_in_one_line_until_the_first_has_ended(self, tmp_path, monkeypatch, lock):
        monkeypatch.chdir(tmp_path)
        other = start_python(f"with {lock}(Path('x.json')): print('locked', flush=True); time.sleep(60)", tmp_path)
        assert other.stdout.readline() == "locked\n"
        for second in (run_lock, atomic_write):
            with pytest.raises(PipelineError) as err, second(Path("x.json")):
                pass
            assert str(err.value) == "x.json: another run is writing it; wait until it has ended"
        other.kill()
        other.wait()
        write_text(Path("x.json"))
        assert names(tmp_path) == ["x.json"]

    def test_several_threads_never_write_one_file_at_the_same_time(self, tmp_path):
        path, refused, wrong = tmp_path / "x.json", [], []

        def write(i: int) -> None:
            for _ in range(50):
                try:
                    write_json(path, {"from": i})
                    json.loads(path.read_text())
                except PipelineError as err:
                    refused.append(str(err))
                except (OSError, ValueError) as err:
                    wrong.append(err)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert all("another run is writing it" in line for line in refused)
        assert names(tmp_path) == ["x.json"]

    def test_several_processes_never_hold_one_lock_at_the_same_time(self, tmp_path):
        """Each release removes the lock file, which the others may have opened a moment before."""
        code = (
            "held = 0\n"
            "while held < 100:\n"
            "    try:\n"
            "        with run_lock(Path('x.json')):\n"
            "            Path('inside').touch(exist_ok=False); Path('inside').unlink(); held += 1\n"
            "    except PipelineError: pass\n"
        )
        cleaning = "end = time.monotonic() + 3\nwhile time.monotonic() < end: remove_leftovers(Path())"
        processes = [start_python(what, tmp_path) for what in (code, code, cleaning)]
        assert [process.wait(120) for process in processes] == [0, 0, 0]
        assert names(tmp_path) == []

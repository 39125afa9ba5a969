"""Learning from the window: folders are chosen, three stages run, and the model that comes of it is used."""

from __future__ import annotations

import shutil
import tkinter as tk
from pathlib import Path

import pytest
from conftest import write_library

from neural_grain.session.learn_state import Phase
from neural_grain.session.models import begin_model, list_models
from neural_grain.session.stage_process import StageProcess
from neural_grain.window.learn_commands import QUIT_LEARNING
from neural_grain.window.learn_pages import LEARN_HINTS

pytest_plugins = ["driving"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """The smallest library that something can be learned from."""
    return write_library(tmp_path_factory.mktemp("library") / "My drones", n_files=5, duration_s=1.0)


def open_learning(d) -> None:
    """Choose the entry of the menu, or while no sound is open the large button."""
    if d.session.opened is None:
        d.click(d.layout.start_page.buttons["learn.open"])
    else:
        d.layout.menus["Model"].invoke("Learn from my sounds ...")
    d.wait_until(lambda: d.window.learn.view.window.winfo_viewable())
    d.window.learn.view.window.focus_force()
    d.receive_events()


def add(d, folder: Path) -> None:
    """Add a folder and wait until its files are counted."""
    d.answers["folder"] = str(folder)
    d.click(d.window.learn.view.choose_page.add_button)
    d.wait_until(lambda: folder in [line.folder for line in d.window.learn.state().folders])
    d.wait_until(lambda: "counting" not in str(d.window.learn.state().folders))
    d.receive_events()


def phase(d) -> Phase:
    return d.window.learn.state().phase


def type_into(d, entry: tk.Entry, text: str) -> None:
    """Replace what a field holds."""
    d.xdotool("mousemove", *d.centre(entry), "click", "--repeat", 3, 1, "key", "ctrl+slash")
    d.xdotool("type", "--delay", 5, text)
    d.wait_until(lambda: entry.get() == text)


def test_a_model_is_learned_while_the_window_is_used_and_then_heard(start, sounds, sound, tmp_path):
    d = start(sound)
    learn, first_processor = d.window.learn, d.session.processor
    open_learning(d)
    choose, run = learn.view.choose_page, learn.view.run_page
    assert choose.start_button.instate(["disabled"])
    add(d, sounds)
    assert choose.name_entry.get() == "My drones"
    assert choose.hint["text"].startswith("Only 5 files")
    type_into(d, choose.epochs_entry, "2")
    assert not d.parts_cut_off(learn.view.window)
    d.click(choose.start_button)
    d.wait_until(lambda: phase(d) is Phase.ASKING)
    d.receive_events()
    assert "Only 5 files" in run.reasons["text"]
    assert not d.parts_cut_off(learn.view.window)
    d.click(run.go_on_button)
    d.wait_until(lambda: phase(d) is Phase.RUNNING)

    d.receive_events()
    d.click(run.hide_button)
    d.wait_until(lambda: not learn.view.window.winfo_viewable())
    d.wait_until(lambda: learn.line.label["text"].startswith("learning My drones: "))
    d.wait_until(learn.line.frame.winfo_viewable)
    d.drag_slider(-1.0)  # the main window works while the stages run
    d.wait_until(lambda: d.session.is_measured(d.window.target))
    assert d.session.rendering.achieved_octaves == pytest.approx(-1.0, abs=0.1)
    assert phase(d) is Phase.RUNNING

    d.wait_until(lambda: phase(d) is Phase.DONE, timeout_s=240)
    assert learn.line.label["text"] == "My drones is learned"
    d.receive_events()
    d.click(learn.line.button)
    d.wait_until(lambda: run.use_button.winfo_viewable())
    assert not learn.line.frame.winfo_viewable()
    assert run.verdict.winfo_children()[0]["text"].startswith("The slider is accurate to 0.05 octaves")
    assert run.picture["image"]
    assert not d.parts_cut_off(learn.view.window)
    learn.view.window.lift()
    d.receive_events()
    d.click(run.use_button)
    d.wait_until(lambda: d.session.processor is not first_processor)
    d.settle()
    (model,) = list_models(tmp_path / "preferences/models")
    assert d.session.processor.loaded.audit["verdict"] == model.verdict
    assert d.entries_of("Use") == ["Built-in pattern", "✓ My drones"]
    library = d.session.library_state(d.window.target)
    assert sum(library.histogram.counts) == 5

    d.close()
    again = start()  # another session
    assert again.session.processor.loaded is not None
    assert again.entries_of("Use") == ["Built-in pattern", "✓ My drones"]
    again.layout.menu_bar.dynamic_menus["Use"].invoke(0)
    again.wait_until(lambda: again.session.processor.loaded is None)
    assert again.entries_of("Use") == ["✓ Built-in pattern", "My drones"]


def test_quitting_while_a_model_is_learned_asks_first_and_takes_the_stage_along(start, sounds, tmp_path):
    d = start()
    learn = d.window.learn
    begin_model(tmp_path / "preferences/models", "a", [sounds], 2)
    open_learning(d)
    (button,) = (each for each in learn.view.choose_page.model_rows.winfo_children() if each.winfo_class() == "TButton")
    d.click(button)  # to continue it
    d.wait_until(lambda: phase(d) is Phase.ASKING)
    learn.go_on()
    d.wait_until(lambda: learn.state().stages[1].text.startswith("converting"))
    process = learn.learning.process
    assert isinstance(process, StageProcess)
    d.answers["confirm"] = False
    d.window.close()
    assert d.questions == [QUIT_LEARNING]
    assert not d.is_closed
    assert learn.is_learning
    d.answers["confirm"] = True
    d.window.close()
    assert d.is_closed
    assert not process.is_alive
    assert list_models(tmp_path / "preferences/models")[0].is_unfinished


def test_a_learning_is_stopped_from_its_page_and_continued(start, sounds, tmp_path):
    d = start()
    learn = d.window.learn
    open_learning(d)
    add(d, sounds)
    d.click(learn.view.choose_page.start_button)
    d.wait_until(lambda: phase(d) is Phase.ASKING)
    d.receive_events()
    run = learn.view.run_page
    d.click(run.stop_button)
    d.wait_until(lambda: phase(d) is Phase.STOPPED)
    assert run.title["text"] == "My drones was stopped"
    d.receive_events()
    d.click(run.resume_button)
    d.wait_until(lambda: phase(d) is Phase.ASKING)
    d.receive_events()
    d.click(run.go_on_button)
    d.wait_until(lambda: phase(d) is Phase.RUNNING)
    d.receive_events()
    d.click(run.cancel_button)
    d.wait_until(lambda: phase(d) is Phase.STOPPED)
    (model,) = list_models(tmp_path / "preferences/models")
    assert (model.name, model.is_unfinished) == ("My drones", True)


def test_what_can_not_be_learned_from_is_refused_in_one_line(start, sounds, tmp_path):
    d = start()
    learn, models = d.window.learn, tmp_path / "preferences/models"
    open_learning(d)
    page = learn.view.choose_page
    (tmp_path / "texts").mkdir()
    add(d, tmp_path / "texts")
    assert page.fault["text"] == "there are no audio files in these folders; choose others"
    assert page.start_button.instate(["disabled"])
    (remove,) = (each for each in page.folder_rows.winfo_children() if each.winfo_class() == "TButton")
    d.click(remove)
    d.wait_until(lambda: not learn.state().folders)
    assert not page.fault.winfo_viewable()

    gone = shutil.copytree(sounds, tmp_path / "gone")
    add(d, gone)
    add(d, gone / "Drone")  # its files count once
    assert learn.state().hint.startswith("Only 5 files")
    (models / "Taken").mkdir(parents=True)
    (models / "Taken/something").touch()
    for field, text, words in (
        (page.name_entry, "taken", "already a model named Taken"),
        (page.name_entry, "a/b", "can't have / in it"),
        (page.epochs_entry, "many", "'many' is not a whole number"),
    ):
        type_into(d, field, text)
        d.xdotool("key", "Return")
        d.wait_until(lambda words=words: words in page.fault["text"])
        assert phase(d) is Phase.CHOOSING
        assert not d.parts_cut_off(learn.view.window)

    type_into(d, page.name_entry, "Lost")
    type_into(d, page.epochs_entry, "2")
    shutil.rmtree(gone)
    d.xdotool("key", "Return")
    d.wait_until(lambda: phase(d) is Phase.FAILED)
    d.receive_events()
    run = learn.view.run_page
    assert run.title["text"] == "Lost could not be learned"
    assert run.fault["text"] == f"{gone}: no such file or folder"
    assert not d.parts_cut_off(learn.view.window)
    d.click(run.choose_button)
    d.wait_until(lambda: phase(d) is Phase.CHOOSING and page.fault["text"].endswith("no such file or folder"))
    assert page.name_entry.get() == "Lost"
    assert [model.name for model in list_models(models)] == ["Lost"]


def texts_of(widget: tk.Misc) -> list[str]:
    """The texts of all labels."""
    own = [widget["text"]] if widget.winfo_class() == "Label" else []
    return own + [text for child in widget.winfo_children() for text in texts_of(child)]


def test_everything_can_be_reached_with_the_keyboard_and_has_a_hint(start, sounds):
    d = start()
    learn = d.window.learn
    open_learning(d)
    page = learn.view.choose_page
    d.xdotool("mousemove", *d.centre(page.epochs_entry))
    d.wait_until(lambda: LEARN_HINTS["epochs"] in texts_of(d.root))
    d.answers["folder"] = str(sounds)
    reached = []
    for _ in range(6):
        focus = learn.view.window.focus_get()
        reached.append(focus)
        if focus is page.add_button:
            d.xdotool("key", "space")
            d.wait_until(lambda: learn.state().can_start)
        d.xdotool("key", "Tab")
        d.wait_until(lambda focus=focus: learn.view.window.focus_get() is not focus)
    assert {page.add_button, page.name_entry, page.epochs_entry, page.close_button, page.start_button} <= set(reached)
    page.name_entry.focus_set()
    d.xdotool("key", "Escape")
    d.wait_until(lambda: not learn.view.window.winfo_viewable())
    assert not learn.is_learning

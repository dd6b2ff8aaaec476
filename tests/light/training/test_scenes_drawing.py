import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyv_cli.errors import UsageError
from weights.training.language.asking import Task
from weights.training.scenes import main, make_example
from weights.training.world import glyphs as glyphs_module
from weights.training.world.colours import OBJECT_COLOURS
from weights.training.world.drawing import draw_scene, make_patch
from weights.training.world.glyphs import FONT_PACKAGE, FONT_VARIABLE, Glyphs, resolve_font
from weights.training.world.kinds import KIND_OF_NAME, KINDS
from weights.training.world.placement import make_scene
from weights.training.world.splits import make_generator

try:
    FONT: Path | None = resolve_font()
except UsageError:
    FONT = None
needs_font = pytest.mark.skipif(FONT is None, reason=f"needs the font of {FONT_PACKAGE}")
NO_FONT = "the font Noto Color Emoji was not found"


@pytest.fixture(scope="module")
def glyphs():
    return Glyphs(FONT)


def make_scenes(n_scenes):
    return [make_scene(make_generator("test", 0, i), "test") for i in range(n_scenes)]


def show_objects(scene, size_px, glyphs):
    """Which object each drawn pixel shows, from the alpha that is pasted."""
    shown = np.full((size_px, size_px), -1)
    for i, each in enumerate(scene.objects):
        patch, corner = make_patch(each, size_px, glyphs)
        alpha = Image.new("L", (size_px, size_px))
        alpha.paste(patch.getchannel("A"), corner)
        shown[np.asarray(alpha) >= 128] = i
    return shown


@needs_font
def test_a_scene_is_drawn_the_same_every_time_and_by_any_process(glyphs):
    for scene in make_scenes(5):
        one, other = draw_scene(scene, 112, glyphs), draw_scene(scene, 112, Glyphs(FONT))
        assert (one.mode, one.size) == ("RGB", (112, 112))
        assert one.tobytes() == other.tobytes()


@needs_font
def test_boxes_are_those_of_the_drawn_pixels(glyphs):
    errors = []
    for scene in make_scenes(80):
        shown = show_objects(scene, 400, glyphs)
        for i, each in enumerate(scene.objects):
            rows, columns = np.nonzero(shown == i)
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4
            errors.append(np.abs(drawn - each.box_percent))
    assert np.mean(errors) < 0.5  # hundredths of the picture
    assert np.mean(np.max(errors, axis=1) <= 2) > 0.98


@needs_font
def test_objects_change_the_pixels_inside_their_boxes_and_no_others(glyphs):
    for scene in make_scenes(30):
        bare = draw_scene(type(scene)(scene.split, scene.background, ()), 200, glyphs)
        changed = np.asarray(draw_scene(scene, 200, glyphs)) != np.asarray(bare)
        for each in scene.objects:
            left, top, right, bottom = (2 * edge for edge in each.box_percent)
            assert changed[top:bottom, left:right].any()
            changed[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = False
        assert not changed.any()


@needs_font
def test_the_font_has_every_kind_and_draws_it_as_its_silhouette_says(glyphs):
    for kind in KINDS:
        tint = "red" if kind.is_tinted else None
        bitmap = glyphs.choose_level(kind.name, tint, 100)
        assert np.asarray(bitmap)[..., 3].max() == 255


@needs_font
def test_a_font_that_draws_a_kind_otherwise_is_refused(glyphs, monkeypatch):
    shapes = glyphs_module.load_silhouettes()
    monkeypatch.setattr(glyphs_module, "load_silhouettes", lambda: {"cat": shapes["key"]})
    with pytest.raises(UsageError, match="draws the cat otherwise"):
        Glyphs(FONT).choose_level("cat", None, 50)


@needs_font
@pytest.mark.parametrize("colour", OBJECT_COLOURS)
def test_most_coloured_pixels_of_a_tinted_object_are_nearest_to_its_tint(glyphs, colour):
    names, palette = list(OBJECT_COLOURS), np.array(list(OBJECT_COLOURS.values()), dtype=float)
    directions = palette / np.linalg.norm(palette, axis=-1, keepdims=True)
    for kind in (kind for kind in KINDS if kind.is_tinted):
        pixels = np.asarray(glyphs.choose_level(kind.name, colour, 100), dtype=float)
        rgb = pixels[pixels[..., 3] > 200][:, :3]
        rgb = rgb[rgb.max(-1) - rgb.min(-1) > 60]
        nearest = (rgb / np.linalg.norm(rgb, axis=-1, keepdims=True) @ directions.T).argmax(-1)
        assert (nearest == names.index(colour)).mean() > 0.8, kind.name


@needs_font
def test_a_folder_of_pictures_has_its_questions_beside_it(tmp_path):
    main(["--seed", "3", "--count", "4", "--size", "56", "--out", str(tmp_path / "new")])
    lines = (tmp_path / "new" / "questions.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    assert {name for document in documents for name in document} == {
        "picture",
        "task",
        "question",
        "answer",
    }
    pictures = sorted({document["picture"] for document in documents})
    assert pictures == [f"{i:06}.png" for i in range(4)]
    assert pictures == sorted(path.name for path in (tmp_path / "new").glob("*.png"))
    assert {document["task"] for document in documents} <= set(Task.__args__)
    with Image.open(tmp_path / "new" / pictures[0]) as picture:
        assert picture.size == (56, 56)
    first = [document["answer"] for document in documents if document["picture"] == pictures[0]]
    assert first == [each.answer for each in make_example("test", 3, 0)[1]]


@needs_font
def test_a_folder_that_holds_questions_is_left_alone(tmp_path, capsys):
    (tmp_path / "questions.jsonl").write_text("mine")
    assert run("--count", "1", "--out", str(tmp_path)) == 2
    assert "questions.jsonl is there already" in capsys.readouterr().err
    assert (tmp_path / "questions.jsonl").read_text() == "mine"


@needs_font
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--count", "0"), "count is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--size", "8"), "size is 8 px"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error_and_leaves_no_folder(
    tmp_path, capsys, flags, problem
):
    assert run(*flags, "--out", str(tmp_path / "new")) == 2
    assert f"error: {problem}\nhint:  use " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def run(*arguments):
    """The exit code of the command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_without_the_font_the_error_names_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(FONT_VARIABLE, raising=False)
    monkeypatch.setattr(glyphs_module, "_FONT_FOLDERS", (str(tmp_path / "none"),))
    glyphs_module.open_glyphs.cache_clear()
    assert run("--out", str(tmp_path / "new")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {NO_FONT}\nhint:  install Debian's package: ")
    assert f"apt-get install {FONT_PACKAGE}`" in err


def test_the_font_is_looked_for_in_sub_folders_of_the_usual_places(tmp_path, monkeypatch):
    monkeypatch.delenv(FONT_VARIABLE, raising=False)
    monkeypatch.setattr(glyphs_module, "_FONT_FOLDERS", (str(tmp_path),))
    (tmp_path / "google" / "noto").mkdir(parents=True)
    font = tmp_path / "google" / "noto" / "NotoColorEmoji.ttf"
    font.touch()
    assert resolve_font() == font


def test_a_named_font_wins_over_the_variable_and_the_variable_over_the_usual_places(
    tmp_path, monkeypatch
):
    named, in_variable = tmp_path / "a.ttf", tmp_path / "b.ttf"
    named.touch()
    in_variable.touch()
    monkeypatch.setenv(FONT_VARIABLE, str(in_variable))
    assert resolve_font(named) == named
    assert resolve_font() == in_variable
    with pytest.raises(UsageError, match=re.escape(f"there is no font {tmp_path / 'c.ttf'}")):
        resolve_font(tmp_path / "c.ttf")


def test_a_file_that_is_no_font_is_a_usage_error(tmp_path):
    (tmp_path / "a.ttf").write_text("no")
    with pytest.raises(UsageError, match=r"a\.ttf has no bitmaps of 109 px"):
        Glyphs(tmp_path / "a.ttf")


def test_every_kind_is_one_character():
    assert all(len(KIND_OF_NAME[name].character) == 1 for name in KIND_OF_NAME)

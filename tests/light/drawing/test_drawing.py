import os
import stat
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tinyv_cli.drawing import lettering
from tinyv_cli.drawing import on_picture as drawing
from tinyv_cli.drawing.label_positions import measure_cover, place_labels, touches
from tinyv_cli.drawing.lettering import resolve_lettering
from tinyv_cli.drawing.on_picture import (
    COLOURS,
    SUFFIXES,
    check_drawing_path,
    draw_boxes,
    find_unwritable,
    write_drawing,
)
from tinyv_cli.errors import DeviceError, UsageError
from tinyv_cli.prompts.boxes import Box

GREYS = ["#000000", "#303030", "#555555", "#777777", "#AAAAAA", "#FFFFFF"]


def make_noise(width, height):
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def find_changed(before, after):
    """(H, W) of what a drawing changed; the picture before is enlarged as the drawing was."""
    enlarged = before.resize(after.size, Image.Resampling.NEAREST)
    return (np.asarray(enlarged) != np.asarray(after)).any(-1)


def measure_luminance(rgb):
    """Relative luminance of 8-bit colours (..., 3). Source: WCAG 2.1."""
    share = np.asarray(rgb, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def measure_contrast(one, other):
    """Contrast of two colours, 1 to 21. Source: WCAG 2.1."""
    lighter, darker = np.maximum(one, other), np.minimum(one, other)
    return (lighter + 0.05) / (darker + 0.05)


def to_rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def test_black_letters_are_read_on_every_plate():
    for colour in COLOURS:
        assert measure_contrast(measure_luminance(to_rgb(colour)), 0) >= 7, colour


@pytest.mark.parametrize("ground", [*GREYS, *COLOURS])
def test_every_frame_stands_out_against_any_ground(ground):
    picture = Image.new("RGB", (640, 480), ground)
    for i in range(len(COLOURS)):
        boxes = [Box("", 0.1, 0.1, 0.1, 0.1)] * i + [Box("", 0.5, 0.5, 0.9, 0.9)]
        drawn = np.asarray(draw_boxes(picture, boxes))
        across = drawn[round(0.7 * 480), 310:330]  # over the left edge
        contrast = measure_contrast(
            measure_luminance(across), measure_luminance(np.asarray(to_rgb(ground)))
        )
        assert contrast.max() >= 2.6


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (6000, 3000), (700, 2500)])
def test_a_frame_runs_along_the_edges_of_its_box(size):
    width, height = size
    picture = Image.new("RGB", size, "#777777")
    changed = find_changed(picture, draw_boxes(picture, [Box("", 0.2, 0.3, 0.6, 0.8)]))
    rows, columns = np.nonzero(changed)
    stroke = 0.02 * np.sqrt(width * height)
    for found, edge in (
        (columns.min(), 0.2 * width),
        (columns.max(), 0.6 * width),
        (rows.min(), 0.3 * height),
        (rows.max(), 0.8 * height),
    ):
        assert abs(found - edge) <= stroke / 2
    assert not changed[round(0.55 * height), round(0.4 * width)], "the inside stays as it was"


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((32, 32), (320, 320)),
        ((2, 2), (320, 320)),
        ((224, 224), (448, 448)),
        ((319, 4000), (638, 8000)),
        ((320, 320), (320, 320)),
        ((10, 9000), (10, 9000)),
    ],
)
def test_a_small_picture_is_enlarged_by_a_whole_factor(size, drawn):
    picture = make_noise(*size)
    result = draw_boxes(picture, [])
    assert result.size == drawn
    assert not find_changed(picture, result).any()


@pytest.mark.parametrize("size", [(32, 32), (32, 600), (600, 32), (640, 480), (2, 2), (3, 5000)])
@pytest.mark.parametrize(
    "corners", [(0, 0, 0, 0), (1, 1, 1, 1), (0.4, 0.2, 0.4, 0.9), (0, 1, 1, 1)]
)
def test_a_box_of_no_area_is_seen_where_it_is(size, corners):
    picture = Image.new("RGB", size, "#777777")
    changed = find_changed(picture, draw_boxes(picture, [Box("", *corners)]))
    height, width = changed.shape
    near = 0.05 * max(width, height)
    rows, columns = np.nonzero(changed)
    assert np.ptp(columns) + 1 >= min(9, width)
    assert np.ptp(rows) + 1 >= min(9, height)
    for found, low, high in ((columns / width, 0, 2), (rows / height, 1, 3)):
        side = width if low == 0 else height
        assert found.min() * side >= corners[low] * side - near
        assert found.max() * side <= corners[high] * side + near


def test_the_given_picture_stays_as_it_was_and_any_mode_will_do():
    for mode in ("RGB", "L", "RGBA", "P"):
        picture = Image.new(mode, (400, 400))
        before = picture.tobytes()
        assert draw_boxes(picture, [Box("cat", 0.1, 0.1, 0.6, 0.6)]).mode == "RGB"
        assert picture.tobytes() == before


def test_several_boxes_without_a_label_are_numbered_and_one_alone_is_not():
    picture = make_noise(640, 480)
    places = [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]
    unnamed = draw_boxes(picture, [Box("", *place) for place in places])
    numbered = draw_boxes(picture, [Box(str(i + 1), *place) for i, place in enumerate(places)])
    assert unnamed.tobytes() == numbered.tobytes()
    alone = find_changed(picture, draw_boxes(picture, [Box("", *places[0])]))
    labelled = find_changed(picture, draw_boxes(picture, [Box("1", *places[0])]))
    assert labelled.sum() > alone.sum() + 100


@pytest.mark.parametrize("label", ["w" * 5000, "a\nb\tc\x1b[31m", "🐱", "猫", "قطة", "\u0301", " "])
@pytest.mark.parametrize("size", [(640, 480), (32, 2000), (2, 3000)])
def test_no_label_is_too_long_or_too_odd_to_draw(label, size):
    picture = make_noise(*size)
    drawn = draw_boxes(picture, [Box(label, 0.9, 0.9, 1, 1), Box(label, 0, 0, 0.1, 0.1)])
    assert find_changed(picture, drawn).mean() < 0.9


def test_a_crowd_is_drawn_without_waiting_for_it():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 0.9, (200, 2))
    boxes = [Box(f"thing {i}", x, y, x + 0.1, y + 0.1) for i, (x, y) in enumerate(corners)]
    start_s = time.perf_counter()
    draw_boxes(make_noise(640, 480), boxes)
    assert time.perf_counter() - start_s < 10


def make_frames(generator, n, picture):
    """Random frames inside a picture, some of them small."""
    width, height = picture
    x = np.sort(generator.integers(0, width, (n, 2)), 1)
    y = np.sort(generator.integers(0, height, (n, 2)), 1)
    return [(int(a), int(b), int(c) + 1, int(d) + 1) for (a, c), (b, d) in zip(x, y, strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_labels_lie_inside_and_apart_while_there_is_room(seed):
    generator = np.random.default_rng(seed)
    picture = (int(generator.integers(300, 900)), int(generator.integers(300, 900)))
    frames = make_frames(generator, 12, picture)
    sizes = [(int(w), 20) for w in generator.integers(15, 120, len(frames))]
    places = place_labels(sizes, frames, picture)
    for place, size in zip(places, sizes, strict=True):
        assert (place[2] - place[0], place[3] - place[1]) == size
        assert place[0] >= 0
        assert place[1] >= 0
        assert place[2] <= picture[0]
        assert place[3] <= picture[1]
    for i, place in enumerate(places):
        assert measure_cover(np.array([place]), places[:i]) == 0


def test_a_label_stands_above_its_frame_and_below_where_that_is_the_picture_s_edge():
    assert place_labels([(50, 20)], [(100, 100, 200, 200)], (400, 400)) == [(100, 80, 150, 100)]
    assert place_labels([(50, 20)], [(100, 0, 200, 200)], (400, 400)) == [(100, 200, 150, 220)]
    assert place_labels([(50, 20)], [(0, 0, 400, 400)], (400, 400)) == [(0, 0, 50, 20)]
    assert place_labels([(150, 20)], [(300, 100, 400, 200)], (400, 400)) == [(250, 80, 400, 100)]
    assert place_labels([None], [(0, 0, 9, 9)], (400, 400)) == [None]


def test_a_label_does_not_hide_a_small_box():
    large, dot = (100, 100, 300, 300), (110, 85, 118, 93)
    place, _ = place_labels([(60, 20), None], [large, dot], (400, 400))
    assert measure_cover(np.array([place]), [dot]) == 0
    assert touches(place, large)


def test_labels_of_one_place_go_elsewhere_until_the_picture_is_full():
    frame = (40, 40, 60, 60)
    places = place_labels([(50, 50)] * 5, [frame] * 5, (100, 100))
    assert len(set(places[:4])) == 4
    assert all(place[2] <= 100 and place[3] <= 100 for place in places)


@pytest.fixture
def without_system_fonts(monkeypatch):
    monkeypatch.setattr(lettering, "_ask_fontconfig", lambda characters: ())
    monkeypatch.setattr(lettering, "_FONT_FILES", ())


def test_plain_english_needs_no_font_of_the_system(without_system_fonts):
    assert resolve_lettering(" a red\n car! ", 20)[::2] == ("a red car!", True)


@pytest.mark.usefixtures("without_system_fonts")
def test_without_a_font_accents_fall_and_other_characters_become_question_marks():
    assert resolve_lettering("ein großes Café", 20)[::2] == ("ein gro?es Cafe", False)
    assert resolve_lettering("a 猫", 20)[::2] == ("a ?", False)
    boxes = [Box("猫", 0, 0, 1, 1), Box("cat", 0, 0, 1, 1), Box("猫", 0, 0, 1, 1)]
    assert find_unwritable(boxes) == ["猫"]


def test_a_font_that_has_the_characters_is_taken():
    found = lettering._ask_fontconfig("кошка")
    if not any("DejaVuSans" in name for name in found):
        pytest.skip("DejaVu Sans is not installed")
    text, font, is_whole = resolve_lettering("кошка", 20)
    assert (text, is_whole) == ("кошка", True)
    assert font.getname()[0] != "Aileron"


def test_a_system_without_fontconfig_is_none_to_wait_for(monkeypatch):
    monkeypatch.setenv("PATH", "")
    lettering._ask_fontconfig.cache_clear()
    assert lettering._ask_fontconfig("ж") == ()
    lettering._ask_fontconfig.cache_clear()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ".JPG"])
def test_a_drawing_is_written_in_the_format_of_its_suffix(tmp_path, suffix):
    path = tmp_path / f"drawn{suffix}"
    write_drawing(path, Image.new("RGB", (40, 30), "#FF0000"))
    with Image.open(path) as found:
        assert found.size == (40, 30)
        assert found.format == Image.registered_extensions()[suffix.lower()]
        assert np.abs(np.asarray(found.convert("RGB"), int) - (255, 0, 0)).max() < 8
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_drawing_replaces_an_older_one_and_follows_a_link(tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "old.png")
    write_drawing(tmp_path / "link.png", Image.new("RGB", (4, 3)), replaces=True)
    assert (tmp_path / "link.png").is_symlink()
    with Image.open(tmp_path / "old.png") as found:
        assert found.size == (4, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="has no umask")
def test_a_drawing_may_be_read_by_whom_other_files_may(tmp_path):
    before = os.umask(0o022)
    try:
        write_drawing(tmp_path / "a.png", Image.new("RGB", (4, 3)))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["drawn", "drawn.txt", "drawn.gifx", "."])
def test_a_suffix_of_no_picture_is_refused_with_one_that_is(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        write_drawing(tmp_path / name, Image.new("RGB", (4, 3)))
    assert "no suffix of a picture" in caught.value.problem
    assert ".png`" in caught.value.hint


def test_a_folder_is_no_file_and_a_missing_one_is_not_made(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UsageError, match="is a folder") as caught:
        check_drawing_path(tmp_path / "a.png")
    assert "a.png/drawn.png`" in caught.value.hint
    with pytest.raises(UsageError, match="there is no folder") as caught:
        check_drawing_path(tmp_path / "new folder" / "a.png")
    assert caught.value.hint == f"make it: `mkdir -p '{tmp_path}/new folder'`"


def test_the_picture_itself_is_never_replaced_by_whatever_name(tmp_path):
    source = tmp_path / "cat.png"
    Image.new("RGB", (4, 3)).save(source)
    before = source.read_bytes()
    (tmp_path / "soft.png").symlink_to(source)
    (tmp_path / "hard.png").hardlink_to(source)
    for name in ("cat.png", "soft.png", "hard.png"):
        with pytest.raises(UsageError, match="is the picture itself") as caught:
            write_drawing(tmp_path / name, Image.new("RGB", (9, 9)), source)
        assert f"{name.removesuffix('.png')}-drawn.png`" in caught.value.hint
    assert source.read_bytes() == before
    write_drawing(tmp_path / "other.png", Image.new("RGB", (9, 9)), source)


def test_a_folder_that_may_not_be_written_is_told_before_the_model_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(DeviceError, match="may not be written") as caught:
        check_drawing_path(tmp_path / "a.png")
    assert "--draw ~/drawn.png" in caught.value.hint


def test_a_drawing_that_a_format_cannot_hold_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.webp"
    path.write_bytes(b"old")
    with pytest.raises(DeviceError, match=r"a\.webp cannot be written"):
        write_drawing(path, Image.new("RGB", (17000, 2)), replaces=True)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.webp"]

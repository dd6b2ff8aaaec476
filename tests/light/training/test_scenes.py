import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from weights.training.world.colours import BACKGROUND_COLOURS, OBJECT_COLOURS
from weights.training.world.drawing import draw_background
from weights.training.world.kinds import KIND_OF_NAME, KINDS
from weights.training.world.placement import (
    MAX_HIDDEN_SHARE,
    MAX_OBJECTS,
    MAX_ROTATION_DEG,
    MIN_OVERLAP_SHARE,
    make_scene,
)
from weights.training.world.scene import (
    NOTHING,
    STYLES,
    Scene,
    SceneObject,
    cover_placement,
    label_patches,
    map_objects,
)
from weights.training.world.silhouettes import cover_cells, estimate_area, load_silhouettes
from weights.training.world.splits import SPLITS, is_held_out_pair, make_generator

N_SCENES = 600


def make_scenes(split, n_scenes=N_SCENES, seed=0):
    return [make_scene(make_generator(split, seed, i), split) for i in range(n_scenes)]


@pytest.fixture(scope="module")
def scenes():
    """Scenes of each split, the same numbers and seed in all."""
    return {split: make_scenes(split) for split in SPLITS}


@pytest.fixture(scope="module")
def tests(scenes):
    return scenes["test"]


def to_lab(rgb):
    """CIE L*a*b* under D65, for distances between colours as people see them."""
    light = np.asarray(rgb, dtype=float) / 255
    linear = np.where(light > 0.04045, ((light + 0.055) / 1.055) ** 2.4, light / 12.92)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.moveaxis(np.cbrt(linear @ np.transpose(matrix) / [0.9505, 1, 1.089]), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def put(kind, centre=(0.5, 0.5), size=0.4, box=(0, 0, 1, 1), colour=None, rotation_deg=0.0):
    return SceneObject(kind, colour, centre, size, rotation_deg, box)


def test_the_same_seed_makes_the_same_scene_however_many_are_made():
    assert make_scenes("test", 8)[5] == make_scenes("test", 6)[5]


def test_no_two_scenes_of_any_split_or_seed_are_the_same(scenes):
    others = make_scenes("train", seed=1)
    every = [scene for split in SPLITS for scene in scenes[split]] + others
    assert len({(scene.background, scene.objects) for scene in every}) == len(every)


def test_a_scene_has_one_to_four_objects_and_each_number_is_common(tests):
    counts = Counter(len(scene.objects) for scene in tests)
    assert set(counts) == {1, 2, 3, 4} == set(range(1, MAX_OBJECTS + 1))
    assert min(counts.values()) > 0.12 * len(tests)


def test_every_kind_colour_and_style_is_drawn(scenes):
    seen = {each.kind for scene in scenes["train"] for each in scene.objects}
    assert seen == set(KIND_OF_NAME)
    backgrounds = [scene.background for scene in scenes["train"]]
    assert {each.colour for each in backgrounds} == set(BACKGROUND_COLOURS)
    assert {each.style for each in backgrounds} == set(STYLES)
    tints = {each.colour for scene in scenes["train"] for each in scene.objects}
    assert tints == {None, *OBJECT_COLOURS}


def test_a_tinted_kind_has_a_tint_and_no_other_has(tests):
    for each in (each for scene in tests for each in scene.objects):
        assert (each.colour is not None) == KIND_OF_NAME[each.kind].is_tinted


def test_no_object_is_lost_on_its_background(scenes):
    for scene in (scene for split in SPLITS for scene in scenes[split]):
        colour = scene.background.colour
        for each in scene.objects:
            assert colour != each.colour
            assert colour not in KIND_OF_NAME[each.kind].lost_on


def test_some_pairs_of_kind_and_background_are_seen_in_tests_only(scenes):
    held_out = {
        split: sum(
            is_held_out_pair(each.kind, scene.background.colour)
            for scene in scenes[split]
            for each in scene.objects
        )
        for split in SPLITS
    }
    n_objects = sum(len(scene.objects) for scene in scenes["test"])
    assert held_out["train"] == held_out["validation"] == 0
    assert 0.04 < held_out["test"] / n_objects < 0.15


def test_holding_out_leaves_each_kind_most_backgrounds_and_each_background_most_kinds():
    pairs = [(kind.name, colour) for kind in KINDS for colour in BACKGROUND_COLOURS]
    held_out = [pair for pair in pairs if is_held_out_pair(*pair)]
    assert max(Counter(kind for kind, _ in held_out).values()) == 1
    assert set(Counter(colour for _, colour in held_out).values()) <= {5, 6}
    for kind in KINDS:
        assert len(kind.lost_on) <= 2


def test_what_is_hidden_or_cut_off_is_less_than_a_third_of_any_object(tests):
    for scene in tests:
        shown = map_objects(scene)
        for i, each in enumerate(scene.objects):
            whole = estimate_area(each.kind) * (each.size * 100) ** 2
            assert (shown == i).sum() >= (1 - MAX_HIDDEN_SHARE) * whole
            assert abs(each.rotation_deg) <= MAX_ROTATION_DEG


def test_objects_overlap_plainly_or_not_at_all(tests):
    n_overlaps = 0
    for scene in tests:
        for i, back in enumerate(scene.objects):
            for front in scene.objects[i + 1 :]:
                covered = cover_placement(back)
                hidden = (covered & cover_placement(front)).sum()
                if hidden:
                    n_overlaps += 1
                    assert back.kind != front.kind
                    assert hidden >= 0.95 * MIN_OVERLAP_SHARE * covered.sum()  # cells are whole
    assert n_overlaps > 0.08 * len(tests)


def test_boxes_are_tight_around_what_is_seen(tests):
    for scene in tests:
        shown = map_objects(scene)
        for i, each in enumerate(scene.objects):
            left, top, right, bottom = each.box_percent
            inside = shown[top:bottom, left:right] == i
            assert inside.sum() == (shown == i).sum()
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
            assert each.box == (left / 100, top / 100, right / 100, bottom / 100)


def test_an_object_in_front_takes_from_the_box_of_the_one_behind():
    found = [
        (back.box_percent, find_own_box(back))
        for scene in make_scenes("test", 200)
        for back in scene.objects[:1]
        if len(scene.objects) > 1
    ]
    assert any(shown != whole for shown, whole in found)
    for shown, whole in found:
        assert shown[0] >= whole[0]
        assert shown[1] >= whole[1]
        assert shown[2] <= whole[2]
        assert shown[3] <= whole[3]


def find_own_box(each):
    rows, columns = np.nonzero(cover_placement(each))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_each_patch_has_the_label_of_the_object_that_covers_most_of_it(tests):
    for scene in tests[:40]:
        shown = map_objects(scene)
        labels = label_patches(scene, 10)
        for row, column in np.ndindex(10, 10):
            patch = shown[10 * row : 10 * row + 10, 10 * column : 10 * column + 10]
            shares = [(patch == i).mean() for i in range(len(scene.objects))]
            best = int(np.argmax(shares))
            assert labels[row, column] == (best if shares[best] >= 1 / 3 else NOTHING)


@pytest.mark.parametrize("grid", [1, 7, 8, 16, 32])
def test_patches_of_any_grid_hold_each_object_inside_its_box(tests, grid):
    for scene in tests[:40]:
        labels = label_patches(scene, grid)
        assert labels.shape == (grid, grid)
        for i, each in enumerate(scene.objects):
            rows, columns = np.nonzero(labels == i)
            left, top, right, bottom = each.box
            assert ((columns + 1) / grid > left).all()
            assert (columns / grid < right).all()
            assert ((rows + 1) / grid > top).all()
            assert (rows / grid < bottom).all()


def test_patches_as_fine_as_the_boxes_are_the_map_itself(tests):
    assert np.array_equal(label_patches(tests[3], 100), map_objects(tests[3]))


def test_every_silhouette_fills_the_longer_side_of_its_square():
    for name, shape in load_silhouettes().items():
        height, width = np.ptp(np.nonzero(shape), axis=1) + 1
        assert max(height, width) >= 62, name
        assert 0.1 < shape.mean() < 0.99, name


def test_no_two_kinds_have_the_same_silhouette():
    shapes = list(load_silhouettes().values())
    for i, one in enumerate(shapes):
        for other in shapes[:i]:
            assert (one & other).sum() < 0.985 * (one | other).sum()


@pytest.mark.parametrize("turn", [-20.0, 0.0, 13.0, 90.0])
def test_an_object_covers_the_same_area_wherever_it_stands_and_however_it_is_turned(turn):
    for kind in ("bicycle", "house", "key"):
        cells = cover_cells(kind, (0.47, 0.52), 0.5, turn)
        assert cells.sum() == pytest.approx(estimate_area(kind) * 2500, rel=0.05)


def test_a_quarter_turn_is_clockwise():
    upright = cover_cells("carrot", (0.5, 0.5), 0.5, 0.0)
    turned = cover_cells("carrot", (0.5, 0.5), 0.5, 90.0)
    assert (turned ^ np.rot90(upright, -1)).mean() < 0.005


def test_an_object_half_outside_is_cut_off_and_one_far_outside_is_gone():
    whole = cover_cells("house", (0.5, 0.5), 0.41, 0.0)
    cut = cover_cells("house", (0.0, 0.5), 0.41, 0.0)
    assert np.array_equal(cut[:, :50], whole[:, 50:])
    assert not cover_cells("house", (2.0, 0.5), 0.4, 0.0).any()


def test_there_are_sixty_everyday_kinds_and_no_name_is_part_of_another():
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 60
    for kind in KINDS:
        words = {kind.name, kind.plural}
        others = {
            word for other in KINDS if other is not kind for word in (other.name, other.plural)
        }
        assert not words & others
        assert " " not in kind.name
    assert not set(names) & set(BACKGROUND_COLOURS)


def test_an_article_fits_the_sound_of_the_name():
    an = {kind.name for kind in KINDS if kind.article == "an"}
    assert an == {"elephant", "owl", "octopus", "apple", "airplane", "umbrella"}


@pytest.mark.parametrize(("palette", "least"), [(BACKGROUND_COLOURS, 30), (OBJECT_COLOURS, 38)])
def test_colours_of_different_names_are_far_apart(palette, least):
    places = to_lab(list(palette.values()))
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    assert distances[np.triu_indices(len(places), 1)].min() > least


def test_a_tint_is_nearest_to_the_background_colour_of_its_name():
    names = list(BACKGROUND_COLOURS)
    for name, rgb in OBJECT_COLOURS.items():
        distances = np.linalg.norm(to_lab(list(BACKGROUND_COLOURS.values())) - to_lab(rgb), axis=-1)
        assert names[int(distances.argmin())] == name


@pytest.mark.parametrize("style", STYLES)
def test_a_background_has_its_colour_all_over(tests, style):
    names = list(BACKGROUND_COLOURS)
    palette = to_lab(list(BACKGROUND_COLOURS.values()))
    for scene in tests[:120]:
        pixels = draw_background(replace(scene.background, style=style), 40)
        assert pixels.shape == (40, 40, 3)
        distances = np.linalg.norm(to_lab(pixels)[..., None, :] - palette, axis=-1)
        is_right = distances.argmin(-1) == names.index(scene.background.colour)
        assert is_right.mean() > 0.97, scene.background


@pytest.mark.parametrize("style", STYLES)
def test_a_background_is_what_its_style_says(tests, style):
    background = replace(tests[0].background, style=style, contrast=0.1)
    pixels = draw_background(background, 64)
    n_colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    if style == "plain":
        assert n_colours == 1
    elif style in ("striped", "checked", "dotted"):
        assert 2 <= n_colours <= 3
    else:
        assert n_colours > 8
    assert np.array_equal(pixels, draw_background(background, 64))


def test_a_scene_is_frozen_and_can_be_made_by_hand():
    scene = Scene("train", make_scenes("train", 1)[0].background, (put("cat"),))
    assert hash(scene)
    with pytest.raises(AttributeError):
        scene.objects = ()


def test_the_same_seed_asks_the_same_in_every_process():
    code = (
        "from weights.training.scenes import make_example\n"
        "print([make_example('test', 0, i)[1] for i in range(60)])"
    )
    said = set()
    for hash_seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        said.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(said) == 1


def test_making_scenes_questions_and_texts_loads_no_torch():
    code = (
        "import sys, weights.training.scenes, weights.training.language.vocabulary\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

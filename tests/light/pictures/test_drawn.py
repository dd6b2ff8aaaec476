"""Drawings as the miniature knows them are told from what it makes answers up about."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyv_cli.pictures.drawn import is_drawing
from tinyv_cli.pictures.image import read_picture, to_pixels

EXAMPLES = Path(__file__).resolve().parents[3] / "weights" / "demo" / "examples"
PX = 224


def looks_drawn(picture):
    return is_drawing(to_pixels(picture, PX))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.png")), ids=lambda path: path.stem)
@pytest.mark.parametrize("side", [112, 224, 700])
def test_the_miniatures_own_examples_are_drawings_at_any_size(path, side):
    assert looks_drawn(read_picture(path).resize((side, side)))


def test_a_photograph_is_none_in_colour_or_grey(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="its sample photograph is taken")
    photo = read_picture(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    assert not looks_drawn(photo)
    assert not looks_drawn(photo.convert("L").convert("RGB"))


def test_many_colours_are_no_drawing_and_few_are():
    ramp = np.linspace(0, 255, PX)
    sky = np.stack([np.tile(ramp, (PX, 1)), np.tile(ramp[:, None], (1, PX)), np.full((PX, PX), 99)])
    picture = Image.fromarray(sky.transpose(1, 2, 0).astype(np.uint8))
    assert not looks_drawn(picture)
    assert looks_drawn(picture.quantize(8).convert("RGB"))


def test_a_page_of_text_is_none():
    page = np.where(np.random.default_rng(1).random((PX, PX)) < 0.1, 0, 255).astype(np.uint8)
    assert not looks_drawn(Image.fromarray(page).convert("RGB"))

import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from tinyv_cli.pictures.image import CLIP_MEAN, CLIP_STD, read_picture, to_pixels
from tinyv_cli.prompts.boxes import Box, boxes_to_json, read_boxes, write_box

RED = (220, 20, 20)
IMAGE_PX = 200

# How a camera stores an upright picture under each orientation of EXIF; what undoes the turn.
AS_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def find_red(channels_hw):
    """The edges of what is red in three planes of 0-1, as x1, y1, x2, y2 in array steps."""
    red, green, blue = channels_hw
    rows, columns = np.nonzero((red > 0.6) & (green < 0.4) & (blue < 0.4))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def answer_as_the_model_sees(picture):
    """The notation a perfect model would answer with: it knows the squashed square alone."""
    (pixels,) = to_pixels(picture, IMAGE_PX)
    shown = pixels * CLIP_STD[:, None, None] + CLIP_MEAN[:, None, None]
    return write_box(Box("", *(edge / IMAGE_PX for edge in find_red(shown))))


def test_json_says_label_shares_and_pixels_in_the_answer_s_order():
    boxes = read_boxes("<p>a cat</p> {<12><5><60><88>} and {<0><0><100><100>}")
    document = boxes_to_json(boxes, 640, 480)
    assert json.loads(json.dumps(document)) == [
        {"label": "a cat", "box": [0.12, 0.05, 0.6, 0.88], "pixels": [77, 24, 384, 422]},
        {"label": "", "box": [0, 0, 1, 1], "pixels": [0, 0, 640, 480]},
    ]
    assert boxes_to_json((), 640, 480) == []


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        ((600, 400), (60, 80, 300, 160)),
        ((400, 600), (60, 80, 300, 160)),
        ((1200, 150), (840, 30, 1080, 120)),
        ((150, 1200), (30, 840, 120, 1080)),
    ],
)
@pytest.mark.parametrize("orientation", [None, *AS_STORED])
def test_pixels_fit_what_is_drawn_however_the_picture_is_stored(
    tmp_path, size, corners, orientation
):
    picture = Image.new("RGB", size, "white")
    picture.paste(RED, corners)
    exif, stored = Image.Exif(), picture
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
        turn = AS_STORED[orientation]
        stored = picture if turn is None else picture.transpose(turn)
    stored.save(tmp_path / "drawn.png", exif=exif)

    upright = read_picture(tmp_path / "drawn.png")
    (found,) = boxes_to_json(read_boxes(answer_as_the_model_sees(upright)), *upright.size)

    hundredths = np.array([*size, *size]) / 100
    assert (np.abs(np.array(found["pixels"]) - corners) <= hundredths + 1).all()

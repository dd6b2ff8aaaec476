"""Position embeddings are taken as they are, or resized to the picture's grid."""

import json

import pytest
import torch
from torch.nn import functional

from tests.torch.quantize.tiny_sources import VISION, change_tensors, write_tiny
from tinyv_cli.errors import WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources

WIDTH = 176


def read_positions(folder) -> torch.Tensor:
    with open_weights(resolve_sources(folder)) as weights:
        return weights.read("vision.embeddings.position_embedding")


def read_file(folder) -> torch.Tensor:
    return torch.load(folder / VISION, weights_only=True)["pos_embed"].float()


def test_they_are_taken_as_they_are_at_224_pixels(tmp_path):
    folder = write_tiny(tmp_path / "s", stage=3)
    assert torch.equal(read_positions(folder), read_file(folder))


def test_they_are_resized_to_448_pixels_and_the_class_tokens_stays(tmp_path):
    folder = write_tiny(tmp_path / "s", stage=4)
    ours, file = read_positions(folder), read_file(folder)
    grid = file[0, 1:].T.reshape(1, WIDTH, 16, 16)
    wanted = functional.interpolate(grid, size=(32, 32), mode="bicubic", align_corners=False)

    assert ours.shape == (1, 1025, WIDTH)
    assert torch.equal(ours[:, :1], file[:, :1])
    row, column = 5, 20
    torch.testing.assert_close(ours[0, 1 + 32 * row + column], wanted[0, :, row, column])
    torch.testing.assert_close(ours[0, 1:].T.reshape(1, WIDTH, 32, 32), wanted)


def test_a_file_made_for_448_pixels_is_taken_as_it_is(tmp_path):
    folder = write_tiny(tmp_path / "s", stage=4)
    positions = torch.randn(1, 1025, WIDTH)
    change_tensors(folder / VISION, lambda t: t.update(pos_embed=positions))
    assert torch.equal(read_positions(folder), positions)


def test_architecture_may_ask_for_another_size(tmp_path):
    folder = write_tiny(tmp_path / "s", stage=4)
    architecture = json.loads((folder / "architecture.json").read_text())
    architecture["vision"]["image_px"] = 224
    (folder / "architecture.json").write_text(json.dumps(architecture))
    assert torch.equal(read_positions(folder), read_file(folder))


@pytest.mark.parametrize("shape", [(1, 256, WIDTH), (1, 1, WIDTH), (257, WIDTH), (1, 257, 175)])
def test_what_is_no_square_grid_with_a_class_token_is_refused(tmp_path, shape):
    folder = write_tiny(tmp_path / "s")
    change_tensors(folder / VISION, lambda t: t.update(pos_embed=torch.ones(shape)))
    with pytest.raises(WeightsError, match="pos_embed is"):
        open_weights(resolve_sources(folder))

"""Recipes: those at hand read, and what is wrong with others is said."""

from pathlib import Path

import pytest

from tests.demo import DEMO
from tinyv_cli.errors import InputError
from tinyv_cli.spec import make_full_spec
from weights.training.language.slots import N_SLOTS
from weights.training.recipe import read_recipe

ROOT = Path(__file__).parents[3]
MINIATURE = DEMO / "recipe.toml"
PUBLISHED = ROOT / "weights/training/published.toml"


def test_the_miniature_is_the_same_network_only_smaller():
    recipe = read_recipe(MINIATURE)
    assert recipe.foundation is not None
    small, full = recipe.foundation.spec, make_full_spec(4)
    assert small.qformer.n_queries == full.qformer.n_queries == N_SLOTS
    assert small.qformer.cross_attention_every == full.qformer.cross_attention_every
    assert small.language.rotary_width == full.language.rotary_width
    assert small.vision.patch_px == full.vision.patch_px
    assert [stage.number for stage in recipe.stages] == [1, 2, 3, 4]
    sides = [stage.image_px for stage in recipe.stages]
    assert sides == [small.vision.image_px] * 3 + [2 * small.vision.image_px]
    assert sides[-1] == recipe.foundation.large_px


def test_the_published_recipe_starts_from_public_files():
    recipe = read_recipe(PUBLISHED)
    assert recipe.foundation is None
    assert [stage.image_px for stage in recipe.stages] == [224, 224, 224, 448]
    assert sum(stage.schedule.steps for stage in recipe.stages) == 88_000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 42", "", "seed is missing"),
        ("seed = 42", "seed = 'x'", "seed is not a whole number"),
        ("steps = 1000", "steps = 0", "steps, batch and dialogues"),
        ("rates = [1e-6, 3e-5, 1e-5]", "rates = [1e-6]", "rates are three"),
        ("rates = [1e-6, 3e-5, 1e-5]", "rates = [1e-6, -1, 1]", "rates are three"),
        ('optimizer = "adamw"', 'optimizer = "sgd"', "optimizer is one of adamw, muon"),
        ("number = 4", "number = 5", "number is one of 1, 2, 3, 4"),
        ('"train-inst"', '"prose"', "templates are one or more of"),
        ("[[stages]]", "[[stages", "is not a recipe"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(old, new, said, tmp_path):
    text = PUBLISHED.read_text("utf-8")
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(InputError, match=said):
        read_recipe(path)


def test_a_network_with_unknown_numbers_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(MINIATURE.read_text("utf-8").replace("n_layers = 6,", "depth = 6,"), "utf-8")
    with pytest.raises(InputError, match="depth"):
        read_recipe(path)


def test_a_recipe_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_recipe(tmp_path / "none.toml")
    assert "weights/demo/recipe.toml" in (caught.value.hint or "")

"""Numbers of steps become drawn scenes with what is said of them: what a stage is trained on."""

from collections.abc import Sequence

from tinyv_cli.pictures.image import to_pixels
from weights.training.dialogues import make_dialogues
from weights.training.drawing import draw_scene
from weights.training.examples import Example
from weights.training.glyphs import Glyphs
from weights.training.placement import make_scene
from weights.training.recipe import StageRecipe
from weights.training.splits import make_generator


class SceneCorpus:
    """Training scenes without end; implements `examples.Corpus`.

    Args:
        seed: of all scenes.
        stage: gives pictures' side, scenes a step, dialogues a scene and templates.
        glyphs: to draw with.
    """

    def __init__(self, seed: int, stage: StageRecipe, glyphs: Glyphs) -> None:
        self._seed = seed
        self._stage = stage
        self._glyphs = glyphs

    def draw(self, step: int) -> Sequence[Example]:
        """The examples of a step."""
        batch = self._stage.schedule.batch
        return [self._draw_one(number) for number in range(step * batch, (step + 1) * batch)]

    def _draw_one(self, number: int) -> Example:
        generator = make_generator("train", self._seed, number)
        scene = make_scene(generator, "train")
        image_px, templates = self._stage.image_px, self._stage.templates
        pixels = to_pixels(draw_scene(scene, image_px, self._glyphs), image_px)[0]
        dialogues = make_dialogues(scene, generator, self._stage.schedule.dialogues)
        return Example(pixels, dialogues, templates[int(generator.integers(len(templates)))])

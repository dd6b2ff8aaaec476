"""Numbers of steps become drawn scenes with conversations: what a stage is trained on."""

from collections.abc import Sequence

from tinyv_cli.image import to_pixels
from tinyv_cli.prompt import Turn
from weights.training.conversations import make_conversation
from weights.training.drawing import draw_scene
from weights.training.examples import Example
from weights.training.glyphs import Glyphs
from weights.training.placement import make_scene
from weights.training.splits import make_generator


class SceneCorpus:
    """Training scenes without end; implements `examples.Corpus`.

    Args:
        seed: of all scenes.
        batch: examples a step.
        image_px: side of a picture.
        glyphs: to draw with.
    """

    def __init__(self, seed: int, batch: int, image_px: int, glyphs: Glyphs) -> None:
        self._seed = seed
        self._batch = batch
        self._image_px = image_px
        self._glyphs = glyphs

    def draw(self, step: int) -> Sequence[Example]:
        """The examples of a step; each learns one turn of its scene's conversation."""
        numbers = range(step * self._batch, (step + 1) * self._batch)
        return [self._draw_one(number) for number in numbers]

    def _draw_one(self, number: int) -> Example:
        generator = make_generator("train", self._seed, number)
        scene = make_scene(generator, "train")
        turns = [Turn(*turn) for turn in make_conversation(scene, generator)]
        learnt = int(generator.integers(len(turns)))
        picture = draw_scene(scene, self._image_px, self._glyphs)
        pixels = to_pixels(picture, self._image_px)[0]
        asked = turns[learnt]
        return Example(pixels, tuple(turns[:learnt]), asked.question, asked.answer)

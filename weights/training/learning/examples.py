"""Scenes, drawn and with dialogues about them, become the loss of a stage's step.

A prompt is laid out and tokenized as it is when the model is asked, so that what is trained is
what is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.pictures.image import to_pixels
from weights.training.language.dialogues import Dialogue, make_dialogues
from weights.training.learning.rows import compute_answer_loss, tokenize
from weights.training.recipe import StageRecipe
from weights.training.world.drawing import draw_scene
from weights.training.world.glyphs import Glyphs
from weights.training.world.placement import make_scene
from weights.training.world.splits import make_generator


@dataclass(frozen=True, eq=False)
class Example:
    """One picture and the dialogues about it, each of whose last answers is learnt.

    Attributes:
        pixels: (3, S, S) float32, normalised as `image.to_pixels` does it.
        dialogues: one at least; none refers to another.
        template: name of the prompt template.
    """

    pixels: np.ndarray
    dialogues: Sequence[Dialogue]
    template: str


def draw_examples(seed: int, stage: StageRecipe, glyphs: Glyphs, step: int) -> list[Example]:
    """Draws a step's training scenes with dialogues, the same for the same step.

    Args:
        seed: of all scenes.
        stage: sets the picture side, scenes a step, dialogues a scene and templates.
        glyphs: to draw with.
        step: from 0.
    """
    image_px, templates, batch = stage.image_px, stage.templates, stage.schedule.batch
    examples = []
    for number in range(step * batch, (step + 1) * batch):
        generator = make_generator("train", seed, number)
        scene = make_scene(generator, "train")
        pixels = to_pixels(draw_scene(scene, image_px, glyphs), image_px)[0]
        dialogues = make_dialogues(scene, generator, stage.schedule.dialogues)
        template = templates[int(generator.integers(len(templates)))]
        examples.append(Example(pixels, dialogues, template))
    return examples


def make_stage_loss(
    model: TinyGptV, draw: Callable[[int], Sequence[Example]], tokenizer: Tokenizer
) -> Callable[[int], Tensor]:
    """Makes the loss of a step, as a `Trainer` wants it.

    Cross-entropy over the tokens of all answers, in nats, weighed as `rows.py` says.

    Args:
        model: on the device to compute on.
        draw: returns the examples of a step, always the same ones.
        tokenizer: of the sources.
    """

    def compute_step(step: int) -> Tensor:
        examples = draw(step)
        rows = [tokenize(each.dialogues, tokenizer, each.template) for each in examples]
        pixels = torch.from_numpy(np.stack([each.pixels for each in examples]))
        pixels = pixels.to(model.language.embed_tokens.weight.device)
        with torch.no_grad():  # frozen in every stage
            tokens = model.qformer(model.vision(pixels))
        return compute_answer_loss(model.language, model.projection(tokens), rows)

    return compute_step

"""A TOML file becomes the numbers of a whole training: sizes, steps, rates."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyv_cli.disk.typed_json import to_dataclass
from tinyv_cli.errors import InputError
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.spec import LanguageSpec, ModelSpec, QFormerSpec, VisionSpec
from weights.reading.sources import STAGES

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Schedule:
    """Length and learning rates of a phase.

    Attributes:
        steps: of the whole phase.
        warm_up: steps until the learning rate is at its peak.
        rates: learning rate at the first step, at its peak, at the end.
        batch: scenes a step.
        dialogues: at most so many about each scene; without effect on seeing.
        optimizer: one of `OPTIMIZERS`, explained in `optimizers.py`.
    """

    steps: int
    warm_up: int
    rates: tuple[float, ...]
    batch: int
    dialogues: int
    optimizer: str

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}")
        if min(self.steps, self.batch, self.dialogues) < 1 or self.warm_up < 0:
            raise ValueError("steps, batch and dialogues are 1 or more, warm_up 0 or more")
        if len(self.rates) != 3 or min(self.rates) <= 0:
            raise ValueError("rates are three: at the first step, at the peak, at the end")


@dataclass(frozen=True)
class FoundationRecipe:
    """The network that the four stages of a miniature start from.

    Attributes:
        network: the fields of `ModelSpec` at stage 1, parts as tables.
        vocabulary_scenes: scenes whose texts the merges are learnt from.
        merges: of the vocabulary.
        large_px: side of the large pictures that the vision tower also sees.
        large_from: the step of seeing from which every other step has large pictures.
        long_from: the step of speaking from which there are long answers too.
        seeing: of vision tower and Q-Former.
        speaking: of the language model.
    """

    network: dict[str, Any]
    vocabulary_scenes: int
    merges: int
    large_px: int
    large_from: int
    long_from: int
    seeing: Schedule
    speaking: Schedule

    @property
    def spec(self) -> ModelSpec:
        """The network's numbers."""
        values = self.network
        return ModelSpec(
            stage=values["stage"],
            vision=VisionSpec(**values["vision"]),
            qformer=QFormerSpec(**values["qformer"]),
            projection_width=values["projection_width"],
            language=LanguageSpec(**values["language"]),
        )


@dataclass(frozen=True)
class StageRecipe:
    """One of the four stages.

    Attributes:
        number: 1 to 4.
        start: stage of the checkpoint that it starts from.
        image_px: side of its pictures.
        lora_rank: r of LoRA, where there is none yet.
        templates: of its prompts, each scene has one of them.
        schedule: of its steps.
    """

    number: int
    start: int
    image_px: int
    lora_rank: int
    templates: tuple[str, ...]
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.number not in STAGES:
            raise ValueError(f"number is one of {', '.join(map(str, STAGES))}")
        if not self.templates or not set(self.templates) <= set(TEMPLATES):
            raise ValueError(f"templates are one or more of {', '.join(TEMPLATES)}")


@dataclass(frozen=True)
class TrainingRecipe:
    """A whole training.

    Attributes:
        seed: of new weights and scenes; each phase derives its own.
        bfloat16: computes products in bfloat16.
        save_every: steps between two states on disk.
        foundation: comes before the stages; None where sources are there already.
        stages: in the order of training.
    """

    seed: int
    bfloat16: bool
    save_every: int
    foundation: FoundationRecipe | None
    stages: tuple[StageRecipe, ...]


def read_recipe(path: Path) -> TrainingRecipe:
    """Reads a recipe.

    Raises:
        InputError: there is none, or it is not a recipe.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        recipe = to_dataclass(TrainingRecipe, {"foundation": None} | values)
        if recipe.foundation is not None:
            _ = recipe.foundation.spec
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            "name a recipe, such as weights/demo/recipe.toml",
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        hint = "compare it with weights/demo/recipe.toml"
        raise InputError(f"{path} is not a recipe: {error}", hint) from error
    return recipe

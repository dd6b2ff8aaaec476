"""A recipe becomes sources and the checkpoints of the stages, in one folder.

`python -m weights.training RECIPE --out DIR` goes through the recipe's phases: `seeing`, `speaking`
and `foundation`, which writes the sources that both have made, then `stage1` to `stage4`. A stopped
run resumes where it stopped. A recipe without a foundation starts from sources that DIR holds
already. With `--without` a stage is tried without a part of the network, and nothing but a log and
a state is written. Needs the font Noto Color Emoji.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.console import Console
from tinyv_cli.disk.writing import writing
from tinyv_cli.errors import UsageError, WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.sources import (
    TOKENIZER_FILE,
    make_checkpoint_name,
    resolve_sources,
)
from weights.reading.tokenizer_json import read_tokenizer_json
from weights.synthetic.module_command import open_console
from weights.training.foundation import Foundation
from weights.training.learning.examples import draw_examples, make_stage_loss
from weights.training.learning.trainer import STATES_FOLDER, Trainer, make_options
from weights.training.network.publish import write_checkpoint
from weights.training.network.stages import (
    PARTS,
    load_for_training,
    remove_norms,
    round_frozen,
    thaw,
)
from weights.training.recipe import StageRecipe, TrainingRecipe, read_recipe
from weights.training.world.glyphs import open_glyphs

_FOUNDATION_PHASES = ("seeing", "speaking", "foundation")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what the command line asks for, and prints the folder's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or recipe, sources or font cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m weights.training", description=__doc__)
    add = parser.add_argument
    add("recipe", type=Path, metavar="RECIPE", help="a TOML file, such as weights/demo/recipe.toml")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of sources")
    add("--only", metavar="PHASE", help="one phase; else all")
    add("--without", choices=PARTS, metavar="PART", help="of stages: " + ", ".join(PARTS))
    add("--stop-at", type=int, metavar="N", help="ends each stage after N steps of it")
    add("--font", type=Path, help="NotoColorEmoji.ttf")
    parsed = parser.parse_args(arguments)
    with open_console() as console, writing(parsed.out):
        train(parsed, console)
        console.write_line(str(parsed.out))


def train(parsed: argparse.Namespace, console: Console) -> None:
    """Goes through the phases that the command line asks for.

    Args:
        parsed: the command line.
        console: shows progress.

    Raises:
        TinyvError: recipe, sources or font cannot be used.
    """
    recipe = read_recipe(parsed.recipe)
    first = _FOUNDATION_PHASES if recipe.foundation else ()
    phases = [*first, *(f"stage{stage.number}" for stage in recipe.stages)]
    if parsed.only is not None and parsed.only not in phases:
        raise UsageError(f"the recipe has no phase {parsed.only}", f"use {', '.join(phases)}")
    wanted = set(phases if parsed.only is None else [parsed.only])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.foundation is not None and wanted & set(_FOUNDATION_PHASES):
        foundation = Foundation(parsed.out, recipe, recipe.foundation, device)
        if {"seeing", "foundation"} & wanted:
            foundation.see(console, parsed.font)
        if {"speaking", "foundation"} & wanted:
            foundation.speak(console)
        if "foundation" in wanted:
            foundation.write()
    for stage in recipe.stages:
        if f"stage{stage.number}" in wanted:
            train_stage(recipe, stage, parsed, device, console)


def train_stage(
    recipe: TrainingRecipe,
    stage: StageRecipe,
    parsed: argparse.Namespace,
    device: torch.device,
    console: Console,
) -> None:
    """Trains one stage and writes its checkpoint, unless a part of the network was left out.

    Args:
        recipe: the whole training.
        stage: the recipe's part.
        parsed: the command line.
        device: to compute on.
        console: shows progress.

    Raises:
        WeightsError: a checkpoint of this stage is there that this training did not write.
    """
    number, steps = stage.number, stage.schedule.steps
    name = f"stage{number}" + (f"-without-{parsed.without}" if parsed.without else "")
    files = resolve_sources(parsed.out, stage.start)
    target = parsed.out / make_checkpoint_name(number)
    states = parsed.out / STATES_FOLDER
    is_foreign = stage.start != number and not (states / f"{name}.state.pt").exists()
    if target.exists() and is_foreign and not parsed.without:
        raise WeightsError(f"{target} is there already", f"go on from it with `start = {number}`")
    with open_weights(files, stage.image_px) as weights:
        model, spec = load_for_training(weights, number, stage.lora_rank, recipe.seed)
        alpha = weights.lora_alpha
    remove_norms(model.language, parsed.without)
    trained = thaw(model, number, parsed.without)
    if recipe.bfloat16:
        round_frozen(model, trained)
    model.to(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER_FILE
        path.write_text(read_tokenizer_json(files), "utf-8")
        tokenizer = Tokenizer(path)
    draw = partial(draw_examples, recipe.seed + 1 + number, stage, open_glyphs(parsed.font))
    loss = make_stage_loss(model, draw, tokenizer)
    with console.progress(f"training stage {number}", steps) as bar:
        trainer = Trainer(name, trained, loss, states, make_options(recipe, stage.schedule))
        done = trainer.run(bar.advance, parsed.stop_at)
    if done == steps and not parsed.without:
        write_checkpoint(target, model, spec, alpha)


if __name__ == "__main__":
    main()

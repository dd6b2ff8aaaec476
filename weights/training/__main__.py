"""A recipe becomes sources and the checkpoints of the stages, in one folder.

`python -m weights.training RECIPE --out DIR` goes through the recipe's phases: `seeing`, `speaking`
and `foundation`, which writes the sources that both have made, then `stage1` to `stage4`. A run
that was stopped goes on where it was. A recipe without a foundation starts from sources that DIR
holds already. With `--without` a stage is tried without a part of the network, and nothing but a
log and a state is written. Needs the font Noto Color Emoji.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError, WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.sources import (
    TOKENIZER_FILE,
    SourceFiles,
    make_checkpoint_name,
    read_tokenizer_json,
    resolve_sources,
)
from weights.synthetic.module_command import run_command
from weights.training.ablation import PARTS, leave_out, select_trained
from weights.training.devices import choose_device
from weights.training.examples import make_stage_loss
from weights.training.foundation import Foundation
from weights.training.glyphs import open_glyphs
from weights.training.network import load_for_training, round_frozen
from weights.training.publish import write_checkpoint
from weights.training.recipe import Recipe, StageRecipe, read_recipe
from weights.training.scene_corpus import SceneCorpus
from weights.training.stages import find_stage, thaw
from weights.training.trainer import STATES_FOLDER, Trainer, make_options

_FOUNDATION_PHASES = ("seeing", "speaking", "foundation")


def list_phases(recipe: Recipe) -> list[str]:
    """The names of a recipe's phases, in order."""
    first = _FOUNDATION_PHASES if recipe.foundation else ()
    return [*first, *(f"stage{stage.number}" for stage in recipe.stages)]


def train(parsed: argparse.Namespace, console: Console) -> Path:
    """Does what the command line asks for.

    Args:
        parsed: as `main` documents it.
        console: shows how far it is.

    Returns:
        The folder of sources.

    Raises:
        TinyvError: recipe, sources or font cannot be used.
    """
    recipe = read_recipe(parsed.recipe)
    phases = list_phases(recipe)
    if parsed.only is not None and parsed.only not in phases:
        raise UsageError(f"the recipe has no phase {parsed.only}", f"use {', '.join(phases)}")
    wanted = phases if parsed.only is None else [parsed.only]
    folder: Path = parsed.out
    if recipe.foundation is not None and set(wanted) & set(_FOUNDATION_PHASES):
        foundation = Foundation(folder, recipe, recipe.foundation, choose_device())
        if {"seeing", "foundation"} & set(wanted):
            foundation.see(console, parsed.font)
        if {"speaking", "foundation"} & set(wanted):
            foundation.speak(console)
        if "foundation" in wanted:
            foundation.write()
    for stage in recipe.stages:
        if f"stage{stage.number}" in wanted:
            train_stage(recipe, stage, parsed, console)
    return folder


def train_stage(
    recipe: Recipe, wanted: StageRecipe, parsed: argparse.Namespace, console: Console
) -> None:
    """Trains one stage and writes its checkpoint, unless a part of the network was left out.

    Args:
        recipe: the whole training.
        wanted: the stage's part of it.
        parsed: as `main` documents it.
        console: shows how far it is.

    Raises:
        WeightsError: a checkpoint of this stage is there that this training did not write.
    """
    stage = find_stage(wanted.number)
    name = f"stage{stage.number}" + (f"-without-{parsed.without}" if parsed.without else "")
    files = resolve_sources(parsed.out, wanted.start)
    target = parsed.out / make_checkpoint_name(stage.number)
    states = parsed.out / STATES_FOLDER
    is_foreign = wanted.start != stage.number and not (states / f"{name}.state.pt").exists()
    if target.exists() and is_foreign and not parsed.without:
        raise WeightsError(
            f"{target} is there already", f"go on from it with `start = {stage.number}`"
        )
    with open_weights(files, wanted.image_px) as weights:
        model, spec = load_for_training(weights, stage, wanted.lora_rank, recipe.seed)
        alpha = weights.lora_alpha
    leave_out(model.language, parsed.without)
    trained = select_trained(thaw(model, stage), parsed.without)
    if recipe.bfloat16:
        round_frozen(model, trained)
    model.to(choose_device())
    corpus = SceneCorpus(recipe.seed + 1 + stage.number, wanted, open_glyphs(parsed.font))
    compute_loss = make_stage_loss(model, corpus, _read_tokenizer(files))
    steps = wanted.schedule.steps
    with console.progress(f"training stage {stage.number}", steps) as bar:
        options = make_options(recipe, wanted.schedule)
        trainer = Trainer(name, trained, compute_loss, states, options)
        done = trainer.run(bar.advance, parsed.stop_at)
    if done == steps and not parsed.without:
        write_checkpoint(target, model, spec, alpha)


def _read_tokenizer(files: SourceFiles) -> Tokenizer:
    """The tokenizer of the sources, whichever files it is in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER_FILE
        path.write_text(read_tokenizer_json(files), "utf-8")
        return Tokenizer(path)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m weights.training", description=__doc__)
    add = parser.add_argument
    add("recipe", type=Path, metavar="RECIPE", help="a TOML file, such as weights/demo/recipe.toml")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of sources")
    add("--only", metavar="PHASE", help="one phase; else all")
    add("--without", choices=PARTS, metavar="PART", help="of stages: " + ", ".join(PARTS))
    add("--stop-at", type=int, metavar="N", help="ends each stage after N steps of it")
    add("--font", type=Path, help="NotoColorEmoji.ttf")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what the command line asks for, and prints the folder's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: something cannot be used.
    """
    run_command(_make_parser(), train, arguments)


if __name__ == "__main__":
    main()

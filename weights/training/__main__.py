"""A folder of sources and a stage become the next checkpoint in that folder.

`python -m weights.training --sources DIR --stage N --steps M` trains stage N of the four on drawn
scenes, from the checkpoint of an earlier stage (`--start`), and writes TinyGPT-V_for_StageN.pth
beside it. A run that was stopped goes on where it was. Needs the font Noto Color Emoji.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tinyv_cli.console import Console
from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import image_px_of_stage
from tinyv_cli.tokenizer import Tokenizer
from weights.checkpoint import open_weights
from weights.module_command import run_command
from weights.sources import (
    TOKENIZER_FILE,
    SourceFiles,
    make_checkpoint_name,
    read_tokenizer_json,
    resolve_sources,
)
from weights.training.examples import make_stage_loss
from weights.training.glyphs import open_glyphs
from weights.training.network import load_for_training
from weights.training.publish import write_checkpoint
from weights.training.scene_corpus import SceneCorpus
from weights.training.stages import STAGES, find_stage, thaw
from weights.training.trainer import Trainer, TrainOptions

_WARM_UP_SHARE = 0.05


def train_stage(parsed: argparse.Namespace, console: Console) -> Path:
    """Does what the command line asks for.

    Args:
        parsed: as `main` documents it.
        console: shows how far it is.

    Returns:
        The checkpoint.

    Raises:
        TinyvError: sources, font or options cannot be used.
    """
    stage = find_stage(parsed.stage)
    start = max(1, stage.number - 1) if parsed.start is None else parsed.start
    files = resolve_sources(parsed.sources, start)
    target: Path = parsed.sources / make_checkpoint_name(stage.number)
    if target.exists() and start != stage.number:
        raise WeightsError(
            f"{target} is there already", f"go on from it with `--start {stage.number}`"
        )
    image_px = parsed.image_px or image_px_of_stage(stage.number)
    with open_weights(files, image_px) as weights:
        model, spec = load_for_training(weights, stage, parsed.lora_rank, parsed.seed)
        alpha = weights.lora_alpha
    corpus = SceneCorpus(parsed.seed, parsed.batch, image_px, open_glyphs(parsed.font))
    compute_loss = make_stage_loss(model, corpus, _read_tokenizer(files), stage.template)
    trainer = Trainer(
        f"stage{stage.number}", thaw(model, stage), compute_loss, parsed.sources / "training"
    )
    rates = (
        stage.rates if parsed.rate is None else (parsed.rate / 100, parsed.rate, parsed.rate / 10)
    )
    options = TrainOptions(
        parsed.steps, int(_WARM_UP_SHARE * parsed.steps), rates, parsed.save_every, parsed.bf16
    )
    with console.progress(f"training stage {stage.number}", parsed.steps) as bar:
        trainer.run(options, bar.advance)
    write_checkpoint(target, model, spec, alpha)
    return target


def _read_tokenizer(files: SourceFiles) -> Tokenizer:
    """The tokenizer of the sources, whichever files it is in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER_FILE
        path.write_text(read_tokenizer_json(files), "utf-8")
        return Tokenizer(path)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m weights.training", description=__doc__)
    add = parser.add_argument
    add("--sources", type=Path, required=True, metavar="DIR")
    add("--stage", type=int, choices=sorted(STAGES), required=True)
    add(
        "--start",
        type=int,
        metavar="N",
        help="stage of the checkpoint to start from; else one less",
    )
    add("--steps", type=int, required=True, metavar="N", help="of the whole run")
    add("--batch", type=int, default=16, metavar="N", help="examples a step")
    add("--rate", type=float, metavar="X", help="highest learning rate; else the published one")
    add("--lora-rank", type=int, default=64, metavar="R", help="of new LoRA")
    add("--image-px", type=int, metavar="PX", help="side of the pictures; else the stage's own")
    add("--seed", type=int, default=0, help="of scenes and new LoRA")
    add("--save-every", type=int, default=100, metavar="N", help="steps between two states")
    add("--bf16", action="store_true", help="products in bfloat16")
    add("--font", type=Path, help="NotoColorEmoji.ttf")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what the command line asks for, and prints the checkpoint's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: something cannot be used.
    """
    run_command(_make_parser(), train_stage, arguments)


if __name__ == "__main__":
    main()

"""Nothing becomes the sources that the four stages start from: what the paper takes ready-made.

`python -m weights.training.foundation --out DIR` makes a miniature of the network: a tokenizer, a
ViT and a Q-Former that have learnt to see, a language model that has learnt to answer from text,
and a checkpoint of stage 1 in which nothing was trained yet. It stops and resumes. Then come the
stages: `python -m weights.training --sources DIR --stage 1 --image-px 112 …`. Needs the font Noto
Color Emoji.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tinyv_cli.console import Console
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import LanguageSpec, ModelSpec, QFormerSpec, VisionSpec
from tinyv_cli.tokenizer import Tokenizer
from weights.module_command import run_command
from weights.sources import PHI_FOLDER, TOKENIZER_FILE
from weights.tokenizer_files import write_tokenizer
from weights.training.glyphs import open_glyphs
from weights.training.publish import write_network
from weights.training.reading import list_texts
from weights.training.seeing import SeeingHeads, make_seeing_loss
from weights.training.speaking import make_speaking_loss
from weights.training.trainer import Trainer, TrainOptions
from weights.training.vocabulary import learn_merges

_N_MERGES = 700
_N_VOCABULARY_SCENES = 3000
_SPREAD = 0.02  # of new weights, as Phi-2's and BERT's configurations have it


def make_miniature_spec(vocab_size: int) -> ModelSpec:
    """The miniature's numbers: heads and their rotated channels as Phi-2's, all else smaller."""
    return ModelSpec(
        stage=1,
        vision=VisionSpec(image_px=112, width=192, n_layers=6, n_heads=3, mlp_width=768),
        qformer=QFormerSpec(width=192, n_layers=4, n_heads=3, mlp_width=576),
        projection_width=384,
        language=LanguageSpec(
            width=240, n_layers=6, n_heads=3, mlp_width=960, vocab_size=vocab_size
        ),
    )


def make_fresh_model(spec: ModelSpec, seed: int) -> TinyGptV:
    """A network of random weights; norms one and biases zero."""
    model = TinyGptV(spec)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(0, _SPREAD, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
    nn.init.ones_(model.vision.ln_vision.weight)
    return model


def build_foundation(parsed: argparse.Namespace, console: Console) -> Path:
    """Does what the command line asks for.

    Args:
        parsed: as `main` documents it.
        console: shows how far it is.

    Returns:
        The folder of sources.

    Raises:
        TinyvError: the font or an option cannot be used.
    """
    torch.manual_seed(parsed.seed)
    folder: Path = parsed.out
    (folder / PHI_FOLDER).mkdir(parents=True, exist_ok=True)
    merges = learn_merges(list_texts(parsed.seed, _N_VOCABULARY_SCENES), _N_MERGES)
    n_tokens = write_tokenizer(folder / PHI_FOLDER, merges)
    tokenizer = Tokenizer(folder / PHI_FOLDER / TOKENIZER_FILE)
    spec = make_miniature_spec(-(-n_tokens // 64) * 64)
    model = make_fresh_model(spec, parsed.seed)
    heads = SeeingHeads(spec)
    seeing = {
        **{f"vision.{n}": p for n, p in model.vision.named_parameters()},
        **{f"qformer.{n}": p for n, p in model.qformer.named_parameters()},
        **{f"heads.{n}": p for n, p in heads.named_parameters()},
    }
    glyphs = open_glyphs(parsed.font)
    loss = make_seeing_loss(model, heads, glyphs, parsed.seed, parsed.batch)
    _run(parsed, console, "seeing", seeing, loss)
    speaking = {f"language.{n}": p for n, p in model.language.named_parameters()}
    loss = make_speaking_loss(model.language, tokenizer, parsed.seed + 1, parsed.batch)
    _run(parsed, console, "speaking", speaking, loss)
    write_network(folder, model, spec)
    return folder


def _run(
    parsed: argparse.Namespace,
    console: Console,
    name: str,
    trained: dict[str, nn.Parameter],
    compute_loss: Callable[[int], Tensor],
) -> None:
    n_steps: int = getattr(parsed, f"{name}_steps")
    rates = (parsed.rate / 100, parsed.rate, parsed.rate / 20)
    options = TrainOptions(n_steps, n_steps // 20, rates, parsed.save_every, parsed.bf16)
    with console.progress(f"learning: {name}", n_steps) as bar:
        Trainer(name, trained, compute_loss, parsed.out / "training").run(options, bar.advance)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m weights.training.foundation", description=__doc__
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of sources")
    add("--seeing-steps", type=int, default=12_000, metavar="N")
    add("--speaking-steps", type=int, default=12_000, metavar="N")
    add("--batch", type=int, default=32, metavar="N", help="scenes a step")
    add("--rate", type=float, default=1e-3, metavar="X", help="highest learning rate")
    add("--seed", type=int, default=0, help="of scenes and new weights")
    add("--save-every", type=int, default=200, metavar="N", help="steps between two states")
    add("--bf16", action="store_true", help="products in bfloat16")
    add("--font", type=Path, help="NotoColorEmoji.ttf")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what the command line asks for, and prints the folder's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: something cannot be used.
    """
    run_command(_make_parser(), build_foundation, arguments)


if __name__ == "__main__":
    main()

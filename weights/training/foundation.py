"""Nothing becomes the sources that the four stages start from: what the paper takes ready-made.

A tokenizer, a ViT and a Q-Former that have learnt to see, a language model that has learnt to
answer from text, and a checkpoint of stage 1 in which nothing was trained yet.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import ModelSpec
from tinyv_cli.tokenizer import Tokenizer
from weights.sources import PHI_FOLDER, TOKENIZER_FILE
from weights.tokenizer_files import write_tokenizer
from weights.training.glyphs import open_glyphs
from weights.training.publish import write_network
from weights.training.reading import list_texts
from weights.training.recipe import FoundationRecipe, Recipe
from weights.training.seeing import SeeingHeads, SeeingOptions, make_seeing_loss
from weights.training.speaking import make_speaking_loss
from weights.training.trainer import Trainer, make_options
from weights.training.vocabulary import learn_merges

_SPREAD = 0.02  # of the language model's new weights, as Phi-2's configuration has it
_FASTEST, _SLOWEST = torch.pi / 2, torch.pi / 32  # waves of positions, radians a patch


def make_fresh_model(spec: ModelSpec, seed: int) -> TinyGptV:
    """A network of random weights; norms one and biases zero.

    Vision tower and Q-Former start with a spread of 1/√(inputs) and with positions told by waves:
    from a spread of 0.02 everywhere they took far longer to learn where things are (DESIGN.md).
    """
    model = TinyGptV(spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                is_seeing = name.startswith(("vision.", "qformer.bert."))
                spread = parameter[0].numel() ** -0.5 if is_seeing else _SPREAD
                parameter.normal_(0, spread, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
        nn.init.ones_(model.vision.ln_vision.weight)
        side = spec.vision.image_px // spec.vision.patch_px
        positions = model.vision.get_parameter("embeddings.position_embedding")
        positions[0, 1:] = make_waves(side, spec.vision.width)
    return model


def make_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of the row and of the column: (side², width), rows from the top.

    Source: arXiv 1706.03762, section 3.5, on both axes, with waves that fit small grids.
    """
    n = width // 4
    frequencies = _FASTEST * (_SLOWEST / _FASTEST) ** (torch.arange(n) / n)
    places = torch.arange(side)[:, None] * frequencies  # (side, n)
    waves = torch.cat((places.sin(), places.cos()), dim=-1)  # (side, 2 n)
    rows, columns = waves[:, None].expand(-1, side, -1), waves.expand(side, -1, -1)
    both = torch.cat((rows, columns), dim=-1).flatten(0, 1)  # (side², 4 n)
    return torch.nn.functional.pad(both, (0, width - 4 * n))


def prepare_tokenizer(folder: Path, recipe: Recipe, foundation: FoundationRecipe) -> Tokenizer:
    """Learns the vocabulary, or finds it learnt.

    Raises:
        UsageError: the network has fewer embeddings than there are tokens.
    """
    phi = folder / PHI_FOLDER
    phi.mkdir(parents=True, exist_ok=True)
    texts = list_texts(recipe.seed, foundation.vocabulary_scenes)
    n_tokens = write_tokenizer(phi, learn_merges(texts, foundation.merges))
    if n_tokens > foundation.spec.language.vocab_size:
        raise UsageError(
            f"the vocabulary has {n_tokens} tokens",
            "raise vocab_size in the recipe, or lower merges",
        )
    return Tokenizer(phi / TOKENIZER_FILE)


class Foundation:
    """The network before the stages, and its two phases.

    Args:
        folder: of the sources.
        recipe: the whole training.
        foundation: the recipe's part.
        device: to compute on.

    Raises:
        UsageError: the network has fewer embeddings than there are tokens.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, foundation: FoundationRecipe, device: torch.device
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._foundation = foundation
        self._tokenizer = prepare_tokenizer(folder, recipe, foundation)
        self._model = make_fresh_model(foundation.spec, recipe.seed).to(device)
        torch.manual_seed(recipe.seed)
        self._heads = SeeingHeads(foundation.spec).to(device)

    def see(self, console: Console, font: Path | None) -> None:
        """Teaches vision tower and Q-Former, from where an earlier run stopped."""
        schedule = self._foundation.seeing
        options = SeeingOptions(
            self._recipe.seed,
            schedule.batch,
            self._foundation.large_px,
            self._foundation.large_from,
        )
        loss = make_seeing_loss(self._model, self._heads, open_glyphs(font), options)
        with console.progress("learning to see", schedule.steps) as bar:
            trainer = Trainer("seeing", self._list_seeing(), loss, self._folder / "training")
            trainer.run(make_options(self._recipe, schedule), bar.advance)

    def speak(self, console: Console) -> None:
        """Teaches the language model, from where an earlier run stopped."""
        schedule = self._foundation.speaking
        loss = make_speaking_loss(
            self._model.language,
            self._tokenizer,
            self._recipe.seed + 1,
            schedule.batch,
            schedule.dialogues,
        )
        with console.progress("learning to speak", schedule.steps) as bar:
            trainer = Trainer("speaking", self._list_speaking(), loss, self._folder / "training")
            trainer.run(make_options(self._recipe, schedule), bar.advance)

    def write(self) -> None:
        """Writes what was learnt as sources; both phases are done."""
        write_network(self._folder, self._model, self._foundation.spec)

    def _list_seeing(self) -> dict[str, nn.Parameter]:
        parts = {"vision": self._model.vision, "qformer": self._model.qformer, "heads": self._heads}
        return {f"{part}.{n}": p for part, m in parts.items() for n, p in m.named_parameters()}

    def _list_speaking(self) -> dict[str, nn.Parameter]:
        return {f"language.{n}": p for n, p in self._model.language.named_parameters()}

"""Nothing becomes the sources that the four stages start from: what the paper takes ready-made.

A tokenizer, a ViT and a Q-Former that have learnt to see, a language model that has learnt to
answer from text, and a checkpoint of stage 1 in which nothing was trained yet.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError
from tinyv_cli.model.phi import PhiLanguage
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
from weights.training.slots import GROUP_SIZE
from weights.training.speaking import make_speaking_loss
from weights.training.trainer import Trainer, make_options
from weights.training.vocabulary import learn_merges

_QUERY_SPREAD = 0.02  # of the learned queries, which a norm follows
_LOOK_BACK, _N_TURNS = 12.0, 5  # of biases that look back: how strong, and of how many rotations
_SHARPENED = 2.0  # weight of the norm of queries in layers that look back
_FASTEST, _SLOWEST = torch.pi / 2, torch.pi / 32  # waves of positions, radians a patch


def make_fresh_model(spec: ModelSpec, seed: int) -> TinyGptV:
    """A network of random weights; norms one and biases zero.

    Matrices have a spread of 1/√(inputs), embeddings of tokens one of 1, so that a token is not
    drowned by what attention, normed to 1, adds to it; positions are told by waves. With 0.02
    everywhere, as Phi-2's and BERT's configurations have it, it took far longer to learn where
    things are (DESIGN.md).
    """
    model = TinyGptV(spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, _choose_spread(name, parameter), generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
        nn.init.ones_(model.vision.ln_vision.weight)
        side = spec.vision.image_px // spec.vision.patch_px
        positions = model.vision.get_parameter("embeddings.position_embedding")
        positions[0, 1:] = make_waves(side, spec.vision.width)
        look_back(model.language)
    return model


def look_back(language: PhiLanguage) -> None:
    """Lets the first heads begin with looking 1, 2, … tokens back, as many as a group has words.

    Biases of queries and keys hold a wave of each of the fastest rotations, whose phases meet where
    the key stands so many positions before. To find out alone that a box's edges belong to the kind
    a few words before them took the language model over 2,000 steps (DESIGN.md).
    """
    spec = language.spec
    half = spec.rotary_width // 2
    turns = spec.rope_base ** (-torch.arange(_N_TURNS) / half)  # radians a position
    for back in range(1, GROUP_SIZE):
        layer, head = divmod(back - 1, spec.n_heads)
        biases = language.layers[layer].attention.qkv.bias.view(3, spec.n_heads, -1)
        query, key = biases[0, head], biases[1, head]  # (d), in halves that are turned together
        key[:_N_TURNS] = _LOOK_BACK
        query[:_N_TURNS] = _LOOK_BACK * (turns * back).cos()
        query[half : half + _N_TURNS] = -_LOOK_BACK * (turns * back).sin()
        language.layers[layer].attention.q_layernorm.weight.fill_(_SHARPENED)


def _choose_spread(name: str, parameter: nn.Parameter) -> float:
    if name.endswith("embed_tokens.weight"):
        return 1.0
    return _QUERY_SPREAD if name.endswith("query_tokens") else parameter[0].numel() ** -0.5


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
        """All of the language model but two biases that the public files have no place for."""
        return {
            f"language.{name}": parameter
            for name, parameter in self._model.language.named_parameters()
            if not name.endswith(("q_layernorm.bias", "k_layernorm.bias"))
        }

"""Nothing becomes the sources that the four stages start from: what the paper takes ready-made.

A tokenizer, a ViT and a Q-Former that have learnt to see, a language model that has learnt to
answer from text, and a checkpoint of stage 1 in which nothing was trained yet.
"""

from pathlib import Path

import torch

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.console import Console
from tinyv_cli.errors import UsageError
from weights.reading.sources import PHI_FOLDER, TOKENIZER_FILE
from weights.synthetic.tokenizer_files import write_tokenizer
from weights.training.language.vocabulary import learn_merges, list_texts
from weights.training.learning.seeing import SeeingHeads, SeeingOptions, make_seeing_loss
from weights.training.learning.speaking import SpeakingOptions, make_speaking_loss
from weights.training.learning.trainer import STATES_FOLDER, Trainer, make_options
from weights.training.network.fresh import make_fresh_model, relate_tokens
from weights.training.network.publish import write_network
from weights.training.recipe import FoundationRecipe, TrainingRecipe
from weights.training.world.glyphs import open_glyphs


def prepare_tokenizer(folder: Path, seed: int, foundation: FoundationRecipe) -> Tokenizer:
    """Learns the vocabulary, or reads the one that an earlier run learnt.

    Args:
        folder: of the sources.
        seed: of the scenes whose texts are read.
        foundation: of the recipe.

    Raises:
        UsageError: the network has fewer embeddings than there are tokens.
    """
    phi = folder / PHI_FOLDER
    if not (phi / TOKENIZER_FILE).exists():
        phi.mkdir(parents=True, exist_ok=True)
        texts = list_texts(seed, foundation.vocabulary_scenes)
        write_tokenizer(phi, learn_merges(texts, foundation.merges))
    tokenizer = Tokenizer(phi / TOKENIZER_FILE)
    n_tokens = tokenizer.vocab_size
    if n_tokens > foundation.spec.language.vocab_size:
        raise UsageError(
            f"the vocabulary has {n_tokens} tokens",
            "raise vocab_size in the recipe, or lower merges",
        )
    return tokenizer


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
        self,
        folder: Path,
        recipe: TrainingRecipe,
        foundation: FoundationRecipe,
        device: torch.device,
    ) -> None:
        self._folder = folder
        self._states = folder / STATES_FOLDER
        self._recipe = recipe
        self._foundation = foundation
        self._tokenizer = prepare_tokenizer(folder, recipe.seed, foundation)
        self._model = make_fresh_model(foundation.spec, recipe.seed)
        relate_tokens(self._model.language, self._tokenizer)
        self._model.to(device)
        torch.manual_seed(recipe.seed)
        self._heads = SeeingHeads(foundation.spec).to(device)

    def see(self, console: Console, font: Path | None) -> None:
        """Teaches vision tower and Q-Former, from where an earlier run stopped."""
        foundation, schedule = self._foundation, self._foundation.seeing
        pictures = SeeingOptions(
            self._recipe.seed, schedule.batch, foundation.large_px, foundation.large_from
        )
        loss = make_seeing_loss(self._model, self._heads, open_glyphs(font), pictures)
        parts = {"vision": self._model.vision, "qformer": self._model.qformer, "heads": self._heads}
        trained = {f"{part}.{n}": p for part, m in parts.items() for n, p in m.named_parameters()}
        options = make_options(self._recipe, schedule)
        with console.progress("learning to see", schedule.steps) as bar:
            Trainer("seeing", trained, loss, self._states, options).run(bar.advance)

    def speak(self, console: Console) -> None:
        """Teaches the language model, from where an earlier run stopped."""
        foundation, schedule = self._foundation, self._foundation.speaking
        scenes = SpeakingOptions(
            self._recipe.seed + 1, schedule.batch, schedule.dialogues, foundation.long_from
        )
        loss = make_speaking_loss(self._model.language, self._tokenizer, scenes)
        # Two biases stay zero: the public files have no place for them.
        trained = {
            f"language.{name}": parameter
            for name, parameter in self._model.language.named_parameters()
            if not name.endswith(("q_layernorm.bias", "k_layernorm.bias"))
        }
        options = make_options(self._recipe, schedule)
        with console.progress("learning to speak", schedule.steps) as bar:
            Trainer("speaking", trained, loss, self._states, options).run(bar.advance)

    def write(self) -> None:
        """Writes the network as sources; both phases are done."""
        write_network(self._folder, self._model, self._foundation.spec)

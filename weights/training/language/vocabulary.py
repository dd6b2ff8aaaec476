"""Texts of scenes become the merges of a byte-level BPE, and words the ids of their tokens.

Source: Sennrich et al., arXiv 1508.07909, as the `tokenizers` library computes it.
"""

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer as Learner
from tokenizers import models, pre_tokenizers, trainers

from tinyv_cli.answers.tokenizer import END_OF_TEXT, STOP_MARK, Tokenizer
from tinyv_cli.errors import UsageError
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from weights.synthetic.tokenizer_files import SPACE, Merge, spell_words
from weights.training.language.reading import read_scene
from weights.training.language.slots import WORDS

_FIXED = [*spell_words([STOP_MARK]), (SPACE, STOP_MARK)]  # `###` and ` ###` are single tokens


def list_texts(seed: int, count: int) -> Iterator[str]:
    """Yields whole texts of the first scenes, from which a vocabulary is learnt."""
    for number in range(count):
        reading = read_scene(seed, number, 3)
        described = "".join(f" {WORDS[place]}" for place in reading.slots)
        for each in reading.dialogues:
            prompt = make_prompt(TEMPLATES[reading.template], each.turns, each.question)
            yield f"{described.join(prompt.pieces)}{each.answer}{STOP_MARK}"


def learn_merges(texts: Iterable[str], n_merges: int) -> list[Merge]:
    """Learns which tokens to merge, most frequent pairs first, after those of the stop marks.

    Args:
        texts: to learn from; `<|endoftext|>` in them is passed over.
        n_merges: with the fixed ones; fewer where texts do not give so many.
    """
    # The library breaks ties between equally frequent pairs differently from run to run (1-3 pairs
    # of 1,000), also with one thread: a run that goes on reads the merges that it learnt before.
    learner = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + n_merges, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator((text.replace(END_OF_TEXT, "") for text in texts), trainer)
    learnt = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    made = {"".join(pair) for pair in _FIXED}
    rest = [(left, right) for left, right in learnt if left + right not in made]
    return [*_FIXED, *rest][:n_merges]


def find_word_ids(tokenizer: Tokenizer) -> list[int]:
    """Finds the token id of each of `slots.WORDS` after a space.

    Raises:
        UsageError: the vocabulary has no single token for one of them.
    """
    ids = [tokenizer.encode(f" {word}") for word in WORDS]
    for word, tokens in zip(WORDS, ids, strict=True):
        if len(tokens) != 1:
            raise UsageError(
                f"the vocabulary spells {word!r} in {len(tokens)} tokens", "learn more merges"
            )
    return [tokens[0] for tokens in ids]

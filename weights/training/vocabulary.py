"""Texts become the merges of a byte-level BPE; knows no network and writes no file.

Source: Sennrich et al., arXiv 1508.07909, as the `tokenizers` library computes it.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tinyv_cli.answers.tokenizer import END_OF_TEXT, STOP_MARK
from weights.synthetic.tokenizer_files import SPACE, Merge, spell_words

_FIXED = [*spell_words([STOP_MARK]), (SPACE, STOP_MARK)]  # `###` and ` ###` are single tokens


def learn_merges(texts: Iterable[str], n_merges: int) -> list[Merge]:
    """Learns which tokens to merge, most frequent pairs first, after those of the stop marks.

    Args:
        texts: to learn from; `<|endoftext|>` in them is passed over.
        n_merges: with the fixed ones; fewer where texts do not give so many.
    """
    learner = Tokenizer(models.BPE())
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

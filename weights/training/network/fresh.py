"""A network's numbers become its first weights: random, prepared where learning would be slow.

Prepared are places, numbers, tokens that are alike, and copying.
"""

import torch
from torch import Tensor, nn

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import ModelSpec
from weights.training.language.slots import GROUP_SIZE, NUMBERS, WORDS
from weights.training.world.kinds import KINDS

_QUERY_SPREAD = 0.02  # of the learned queries, which a norm follows
_LOOK_BACK, _N_TURNS = 12.0, 5  # of biases that look back: how strong, and of how many rotations
_NUMBER_SHARE = 2.0  # of a number's value in its first embedding, beside what is its own
_HEAD_GAIN = 4.0  # first logit of a token for its own embedding
_MATCHING_TO = 12  # heads from the first on that look back or find alike tokens
_KEPT_SHARE = 4  # of channels, one in so many holds tokens as they began
_SHARPENED = 2.0  # weight of the norm of queries in layers with such heads
_FASTEST, _SLOWEST = torch.pi / 2, torch.pi / 32  # waves of positions, radians a patch


def make_fresh_model(spec: ModelSpec, seed: int) -> TinyGptV:
    """Makes a network of random weights; norms one and biases zero.

    Matrices have a spread of 1/√(inputs), embeddings of tokens one of 1, so that a token is not
    drowned by what attention, normed to 1, adds to it; positions are marked by waves. With 0.02
    everywhere, as Phi-2's and BERT's configurations have it, it took far longer to learn where
    things are (DESIGN.md).
    """
    model = TinyGptV(spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                spread = parameter[0].numel() ** -0.5
                if name.endswith("embed_tokens.weight"):
                    spread = 1.0
                elif name.endswith("query_tokens"):
                    spread = _QUERY_SPREAD
                parameter.normal_(0, spread, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
        nn.init.ones_(model.vision.ln_vision.weight)
        side = spec.vision.image_px // spec.vision.patch_px
        positions = model.vision.get_parameter("embeddings.position_embedding")
        positions[0, 1:] = make_waves(side, spec.vision.width)
        look_back(model.language)
        find_same(model.language)
    return model


def look_back(language: PhiLanguage) -> None:
    """Makes the first heads look 1, 2, … tokens back, as many as a group has words.

    Biases of queries and keys hold a wave of each of the fastest rotations, whose phases meet where
    the key stands so many positions before. To find out alone that a box's edges belong to the kind
    a few words before them took the language model over 2,000 steps (DESIGN.md).
    """
    spec = language.spec
    half = spec.rotary_width // 2
    turns = spec.rope_base ** (-torch.arange(_N_TURNS) / half)  # radians a position
    for back in range(1, min(GROUP_SIZE, spec.n_layers * spec.n_heads + 1)):
        layer, head = divmod(back - 1, spec.n_heads)
        path = f"layers.{layer}.attention"
        biases = language.get_parameter(f"{path}.qkv.bias").view(3, spec.n_heads, -1)
        query, key = biases[0, head], biases[1, head]  # (d), in halves that are turned together
        key[:_N_TURNS] = _LOOK_BACK
        query[:_N_TURNS] = _LOOK_BACK * (turns * back).cos()
        query[half : half + _N_TURNS] = -_LOOK_BACK * (turns * back).sin()
        language.get_parameter(f"{path}.q_layernorm.weight").fill_(_SHARPENED)


def find_same(language: PhiLanguage) -> None:
    """Makes the next heads, of the second and third layer, find tokens like the one that asks.

    Some channels are written by no layer up to there: they still hold what tokens began as. Queries
    and keys are the same products of them that no rotation touches, so that a name or a number in a
    question looks at itself and at the same one in the picture, where earlier heads have put what
    stands beside it. Without it each of 64 kinds was learnt for itself (DESIGN.md). With all
    channels it does nothing: what the first layer adds is as large as the token, whose double in
    the picture then has a cosine of 0.44 to it.
    """
    spec = language.spec
    n_kept, n_turned = spec.width // _KEPT_SHARE, spec.rotary_width
    for head in range(GROUP_SIZE, min(_MATCHING_TO, spec.n_layers * spec.n_heads)):
        layer, place = divmod(head, spec.n_heads)
        path = f"layers.{layer}.attention"
        weight = language.get_parameter(f"{path}.qkv.weight")
        queries, keys, _ = weight.view(3, spec.n_heads, spec.head_width, spec.width)
        keys[place, n_turned:, n_kept:] = 0.0
        keys[place, n_turned:] *= _KEPT_SHARE**0.5
        queries[place] = keys[place]
        queries[place, :n_turned] = 0.0
        language.get_parameter(f"{path}.q_layernorm.weight").fill_(_SHARPENED)
        for written in (f"layers.{layer - 1}.attention.dense", f"layers.{layer - 1}.mlp.fc2"):
            language.get_parameter(f"{written}.weight")[:n_kept] = 0.0


def relate_tokens(language: PhiLanguage, tokenizer: Tokenizer) -> None:
    """Makes tokens that mean the same alike, and the head return the token that it sees.

    Numbers begin as waves of their value. A plural and its singular share half of what they begin
    with, as do a word with a space before it and one without. Rows of the head are the embeddings,
    so that to copy a word need not be learnt for each word alone (DESIGN.md).
    """
    embeddings = language.embed_tokens.weight
    width = embeddings.shape[1]
    with torch.no_grad():
        ids = {tokenizer.decode([token]): token for token in range(tokenizer.vocab_size)}
        for text, token in ids.items():
            if text.strip() in WORDS[NUMBERS]:
                value = torch.tensor([float(text)])
                embeddings[token] += _NUMBER_SHARE * make_line_waves(value, width)[0]
                embeddings[token] /= (1 + _NUMBER_SHARE**2) ** 0.5
        pairs = [(f" {kind.name}", f" {kind.plural}") for kind in KINDS]
        pairs += [(text, text.removeprefix(" ")) for text in ids if text.startswith(" ")]
        for text, other in pairs:
            if text != other and text in ids and other in ids:
                mixed = embeddings[ids[text]] + embeddings[ids[other]]
                embeddings[ids[other]] = mixed / 2**0.5
        language.lm_head.weight.copy_(_HEAD_GAIN / width * embeddings)


def make_line_waves(values: Tensor, width: int) -> Tensor:
    """Computes sines and cosines of values of 0-100: (n, width), about 1 in square."""
    frequencies = torch.pi / 2 * 200 ** (-torch.arange(width // 2) / (width // 2))
    angles = values[:, None] * frequencies
    return 2**0.5 * torch.cat((angles.sin(), angles.cos()), dim=-1)


def make_waves(side: int, width: int) -> Tensor:
    """Computes sines and cosines of the row and of the column: (side², width), rows from the top.

    Source: arXiv 1706.03762, section 3.5, on both axes, with waves that fit small grids.
    """
    n = width // 4
    frequencies = _FASTEST * (_SLOWEST / _FASTEST) ** (torch.arange(n) / n)
    places = torch.arange(side)[:, None] * frequencies  # (side, n)
    waves = torch.cat((places.sin(), places.cos()), dim=-1)  # (side, 2 n)
    rows, columns = waves[:, None].expand(-1, side, -1), waves.expand(side, -1, -1)
    both = torch.cat((rows, columns), dim=-1).flatten(0, 1)  # (side², 4 n)
    return torch.nn.functional.pad(both, (0, width - 4 * n))

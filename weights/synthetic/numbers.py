"""A tensor's name, its shape and a seed become random numbers that keep activations sane.

Each tensor has a generator of its own, seeded by its name, so that the order in which tensors are
made does not matter, nor which file they go to.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

LORA_ALPHA = 16
_TOKENS = ("embed_tokens", "query_tokens", "class_embedding")
_POSITION_SPREAD = 0.3
_NORM_SPREAD = 0.1
_BIAS_SPREAD = 0.02
_LORA_SHARE = 0.1  # of the spread of the matrix it is added to
_LOGIT_SPREAD = 3.0  # nats; a flat distribution would hide every error


def make_numbers(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Makes normal numbers about zero, or about one in the weights of norms.

    Matrices have a spread of 1/√inputs, so that what goes in with a spread of one comes out so.

    Args:
        name: of the tensor; decides the spread.
        shape: of the tensor.
        seed: of the whole network.
    """
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])
    numbers = generator.standard_normal(shape, dtype=np.float32)
    module = name.split(".")[-2] if "." in name else name
    is_norm = "norm" in module.lower() or module == "ln_vision"
    if name.endswith(".bias"):
        spread = _BIAS_SPREAD
    elif is_norm:
        spread = _NORM_SPREAD
    elif any(token in name for token in _TOKENS):
        spread = 1.0
    elif "position_embedding" in name:
        spread = _POSITION_SPREAD
    elif name.endswith("lora_B"):
        spread = _LORA_SHARE * math.sqrt(shape[1]) / LORA_ALPHA
    else:
        per_input = 1 / math.sqrt(math.prod(shape[1:]))
        spread = _LOGIT_SPREAD * per_input if "lm_head" in name else per_input
    numbers *= spread
    if is_norm and not name.endswith(".bias"):
        numbers += 1
    return numbers

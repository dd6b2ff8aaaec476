"""A network and a stage become bytes of memory that training takes; allocates nothing.

Three parts: weights, frozen and trained; what the optimizer keeps of the trained ones; and what
each position of the language model leaves behind for the way back. Vision tower and Q-Former run
without a way back and leave nothing.
"""

from tinyv_cli.spec import LanguageSpec, ModelSpec

_FLOAT32, _BFLOAT16 = 4, 2
_TRAINED_BYTES = 4 * _FLOAT32  # weight, gradient and AdamW's two moments


def count_trained(spec: ModelSpec, lora_rank: int) -> int:
    """Weights that a stage trains: projections, norms, and LoRA where its rank is not 0."""
    width, n_layers = spec.language.width, spec.language.n_layers
    projections = (spec.qformer.width + 1) * spec.projection_width
    projections += (spec.projection_width + 1) * width
    norms = n_layers * (2 * width + 2 * spec.language.head_width) + width
    lora = n_layers * lora_rank * ((width + 3 * width) + (width + width))
    return projections + norms + lora


def count_frozen(spec: ModelSpec) -> int:
    """Weights of the matrices that no stage trains, biases and small norms left out."""
    vision, qformer, language = spec.vision, spec.qformer, spec.language
    tower = vision.n_layers * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width)
    n_cross = -(-qformer.n_layers // qformer.cross_attention_every)
    bert = qformer.n_layers * (4 * qformer.width**2 + 2 * qformer.width * qformer.mlp_width)
    bert += n_cross * 2 * qformer.width * (qformer.width + vision.width)
    block = 4 * language.width**2 + 2 * language.width * language.mlp_width
    return tower + bert + language.n_layers * block + 2 * language.vocab_size * language.width


def count_saved_bytes(spec: LanguageSpec, lora_rank: int) -> int:
    """Bytes that one position leaves behind in all layers together, products in bfloat16.

    A layer keeps in float32 the inputs of its two norms and what the second one gave; in bfloat16
    q, k and v, q and k once more after rotation, what attention mixed, and the MLP's hidden values
    before GELU; with LoRA also the inputs of the adapted matrices and of the thin ones. Attention
    keeps no scores where a fused kernel computes it.
    """
    width = spec.width
    rounded = 3 * width + 3 * width + spec.mlp_width
    if lora_rank:
        rounded += 2 * width + 2 * lora_rank
    return spec.n_layers * (3 * width * _FLOAT32 + rounded * _BFLOAT16)


def estimate_training_bytes(
    spec: ModelSpec, lora_rank: int, positions: int, weight_bytes: int = _BFLOAT16
) -> int:
    """Bytes that a step of a stage takes.

    Args:
        spec: the network.
        lora_rank: r, 0 in stage 1.
        positions: of all rows of a step together.
        weight_bytes: of a frozen weight: 2 in bfloat16, 4 in float32.
    """
    kept = count_frozen(spec) * weight_bytes + count_trained(spec, lora_rank) * _TRAINED_BYTES
    return kept + positions * count_saved_bytes(spec.language, lora_rank)

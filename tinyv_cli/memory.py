"""A variant's numbers become the bytes an answer will take, before any of them is loaded."""

from tinyv_cli.spec import LanguageSpec, ModelSpec, VisionSpec

PACKED_SHARE = 2.2  # bytes of a packed copy to those of its part: it keeps the portable numbers too
_FLOAT_BYTES = 4
_PROGRAM_BYTES = 150_000_000  # interpreter, runtime, tokenizer: 130-160 MB measured


def estimate_run_bytes(spec: ModelSpec, weight_bytes: int, context_length: int) -> int:
    """Estimates the peak memory of an answer on the CPU.

    Args:
        spec: the model's numbers.
        weight_bytes: bytes of the variant's files; all of them are touched.
        context_length: positions that the cache may fill.
    """
    working = max(_encoder_bytes(spec.vision), _decoder_bytes(spec.language, context_length))
    return _PROGRAM_BYTES + weight_bytes + cache_bytes(spec.language, context_length) + working


def cache_bytes(spec: LanguageSpec, n_positions: int) -> int:
    """Bytes of keys and values in float32."""
    return 2 * _FLOAT_BYTES * spec.n_layers * spec.width * n_positions


def _encoder_bytes(spec: VisionSpec) -> int:
    """Working memory of the ViT: one block's scores, and its widest activations twice."""
    scores = spec.n_heads * spec.n_tokens**2
    return _FLOAT_BYTES * (scores + spec.n_tokens * (2 * spec.mlp_width + 6 * spec.width))


def _decoder_bytes(spec: LanguageSpec, context_length: int) -> int:
    """Working memory of a prefill of 256 positions: scores, widest activations twice, logits."""
    scores = spec.n_heads * 256 * context_length
    return _FLOAT_BYTES * (scores + 256 * (2 * spec.mlp_width + 6 * spec.width) + spec.vocab_size)

"""Two models' logits for the same positions become how far apart they are."""

import numpy as np


def compute_divergences(exact: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Computes KL(exact ‖ other) of the next token's distribution at each position, in nats.

    Args:
        exact: logits (T, V).
        other: logits (T, V) of the same positions.

    Returns:
        (T,) float64, 0 or more.

    Source: Kullback and Leibler, "On Information and Sufficiency" (1951), equation 2.4.
    """
    divergences = np.empty(len(exact))
    # A position at a time: all of a sequence's would take 20 MB an array, many times over.
    for place, pair in enumerate(zip(exact, other, strict=True)):
        exact_log, other_log = map(log_softmax, pair)
        divergences[place] = (np.exp(exact_log) * (exact_log - other_log)).sum()
    return divergences.clip(min=0.0)  # rounding can leave -1e-17


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the logarithms of the probabilities of logits (…, V), in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_softmax: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_softmax

"""A variant and the weights it was made from become figures: how far the one is from the other.

Both answer the probes of `probes.py`; the reference is computed in float32, a layer at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quantize.measure.probes import PROBES, EncodedProbes
from quantize.measure.reference import compute_logits
from tinyv_cli.answers.generate import ImageTokens, Segment
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.backends.backend import Backend
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.manifest import MeasuredErrors
from weights.reading.checkpoint import ReadTensor

_DIGITS = 6  # figures of a manifest: what follows is the order of additions


@dataclass(frozen=True)
class ProbeIds:
    """A probe's picture, and its token ids before the picture and after it, with the answer's."""

    picture: int
    before: tuple[int, ...]
    after: tuple[int, ...]


# Probes and their pictures' image tokens (P, Q, D) become logits (T, V) of each probe, at the
# positions from the picture's end to the answer's.
ComputeLogits = Callable[[Sequence[ProbeIds], np.ndarray], list[np.ndarray]]


def measure_errors(
    spec: ModelSpec,
    read: ReadTensor,
    compute: ComputeLogits,
    tokenizer: Tokenizer,
    template: str,
    images: EncodedProbes,
) -> MeasuredErrors:
    """Compares a variant with full precision on the probes, from pixels to logits.

    Args:
        spec: the model's numbers.
        read: returns the unrounded tensors.
        compute: the variant's logits, `step_through` or `run_layers`.
        tokenizer: the variant's.
        template: name of the prompt template.
        images: the probes' image tokens, of both.

    Returns:
        Cosine of the image tokens; divergence KL(reference ‖ variant) and agreement of the best
        token over all positions from the picture's end to the answer's.
    """
    probes = []
    for probe in PROBES:
        before, after = make_prompt(TEMPLATES[template], (), probe.question).pieces
        to_answer = (*tokenizer.encode(after), *tokenizer.encode(probe.answer))
        probes.append(ProbeIds(probe.picture, tuple(tokenizer.encode(before)), to_answer))
    exact_logits = run_layers(spec, read)(probes, images.exact)
    divergences, agreements = [], []
    for exact, logits in zip(exact_logits, compute(probes, images.rounded), strict=True):
        divergences.append(compute_divergences(exact, logits))
        agreements.append(exact.argmax(-1) == logits.argmax(-1))
    return MeasuredErrors(
        image_token_cosine_mean=round(float(images.cosines.mean()), _DIGITS),
        image_token_cosine_min=round(float(images.cosines.min()), _DIGITS),
        logits_kl_nats=round(float(np.concatenate(divergences).mean()), _DIGITS),
        top1_agreement=round(float(np.concatenate(agreements).mean()), _DIGITS),
    )


def run_layers(spec: ModelSpec, read: ReadTensor) -> ComputeLogits:
    """Makes a `ComputeLogits` of tensors as they are read; all probes take a layer together."""

    def compute(probes: Sequence[ProbeIds], images: np.ndarray) -> list[np.ndarray]:
        table = read("language.embed_tokens.weight").numpy()
        prompts = [
            np.concatenate([table[list(p.before)], images[p.picture], table[list(p.after)]])
            for p in probes
        ]
        del table
        logits = compute_logits(spec, read, prompts)
        return [each[-len(p.after) - 1 :] for each, p in zip(logits, probes, strict=True)]

    return compute


def step_through(backend: Backend) -> ComputeLogits:
    """Makes a `ComputeLogits` of an open variant's decoder, one token at a time."""

    def compute_one(probe: ProbeIds, image: np.ndarray) -> np.ndarray:
        decoder = backend.decoder
        decoder.rewind(0)
        opening: list[Segment] = [probe.before, ImageTokens(image, f"probe {probe.picture}")]
        logits = [decoder.extend([segment for segment in opening if len(segment)])]
        logits += [decoder.extend([(token,)]) for token in probe.after]
        return np.stack(logits)

    return lambda probes, images: [compute_one(p, images[p.picture]) for p in probes]

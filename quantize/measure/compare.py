"""A variant and the weights it was made from become figures: how far the one is from the other.

Both answer the probes of `probes.py`; the reference is computed in float32, a layer at a time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quantize.measure.probes import PROBES, EncodedProbes
from quantize.measure.reference import compute_logits, map_logits
from tinyv_cli.answers.generate import ImageTokens, Segment
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.backends.backend import Backend
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.figures import make_mean, make_share
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.manifest import MeasuredErrors
from weights.reading.checkpoint import ReadTensor

_DIGITS = 6  # figures of a manifest: what follows is the order of additions
# All probes are 1,800 positions by Phi-2's tokenizer, 4,900 by one that merges next to nothing: a
# layer's pass over so many takes 6 s at full size instead of 2.
_MOST_POSITIONS = 2500


@dataclass(frozen=True)
class ProbeIds:
    """A probe's picture, and its token ids before the picture and after it, with the answer's."""

    picture: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class ExactProbes:
    """The probes, and what full precision makes of them.

    Attributes:
        ids: of each probe.
        images: the pictures' image tokens, (P, Q, D) float32.
        states: behind the last layer, (T, D) float32 each, of all positions.
    """

    ids: tuple[ProbeIds, ...]
    images: np.ndarray
    states: tuple[Tensor, ...]


# Probes and their pictures' image tokens (P, Q, D) become logits (T, V) of each probe, at the
# positions from the picture's end to the answer's.
ComputeLogits = Callable[[Sequence[ProbeIds], np.ndarray], Iterable[np.ndarray]]


def make_probe_ids(tokenizer: Tokenizer, template: str) -> tuple[ProbeIds, ...]:
    """Encodes the probes: all, or every second, and so on, where the texts take many tokens.

    Args:
        tokenizer: the variant's.
        template: name of the prompt template.

    Returns:
        The first probe, and others of each picture, of 2,500 positions at most to be compared.
    """
    probes: list[ProbeIds] = []
    for probe in PROBES:
        before, after = make_prompt(TEMPLATES[template], (), probe.question).pieces
        to_answer = (*tokenizer.encode(after), *tokenizer.encode(probe.answer))
        probes.append(ProbeIds(probe.picture, tuple(tokenizer.encode(before)), to_answer))
    n_positions = sum(len(each.after) + 1 for each in probes)
    return tuple(probes[:: -(-n_positions // _MOST_POSITIONS)])


def embed(
    probes: Sequence[ProbeIds],
    images: np.ndarray | Mapping[int, np.ndarray],
    look_up: Callable[[list[int]], np.ndarray],
) -> list[np.ndarray]:
    """Puts together what the first layer reads of each probe, (T, D) float32.

    Args:
        probes: their ids.
        images: image tokens of each picture, (Q, D).
        look_up: token ids become rows of the embedding table.
    """
    return [
        np.concatenate([look_up(list(p.before)), images[p.picture], look_up(list(p.after))])
        for p in probes
    ]


def measure_errors(
    spec: ModelSpec,
    read: ReadTensor,
    compute: ComputeLogits,
    probes: ExactProbes,
    images: np.ndarray,
) -> MeasuredErrors:
    """Compares a variant with full precision on the probes, from pixels to logits.

    Args:
        spec: the model's numbers.
        read: returns the unrounded tensors.
        compute: the variant's logits, one of those below or `prefill`.
        probes: as full precision computed them.
        images: the pictures' image tokens by the variant, (P, Q, D).

    Returns:
        Cosine of the image tokens; divergence KL(reference ‖ variant) and agreement of the best
        token over all positions from the picture's end to the answer's, with intervals that take
        probes, not positions, as what was drawn by chance.
    """
    rounded = iter(compute(probes.ids, images))
    cosines = EncodedProbes(probes.images, images).cosines

    def compare(exact: np.ndarray) -> tuple[float, int, int]:
        logits = next(rounded)
        same = exact.argmax(-1) == logits.argmax(-1)
        return float(compute_divergences(exact, logits).sum()), int(same.sum()), len(exact)

    pairs = zip(probes.states, probes.ids, strict=True)
    states = [state[-len(each.after) - 1 :] for state, each in pairs]
    sums, same, counts = zip(*map_logits(spec, read, states, compare), strict=True)
    kl, top1 = make_mean(sums, counts), make_share(sum(same) / sum(counts), len(counts))
    figures = {
        "image_token_cosine_mean": float(cosines.mean()),
        "image_token_cosine_min": float(cosines.min()),
        "logits_kl_nats": kl.value,
        "top1_agreement": top1.value,
        "logits_kl_low": kl.low,
        "logits_kl_high": kl.high,
        "top1_low": top1.low,
        "top1_high": top1.high,
    }
    rounded_figures = {name: round(figure, _DIGITS) for name, figure in figures.items()}
    return MeasuredErrors(n_positions=sum(counts), **rounded_figures)


def run_layers(spec: ModelSpec, read: ReadTensor) -> ComputeLogits:
    """Makes a `ComputeLogits` of tensors as they are read; all probes take a layer together."""

    def compute(probes: Sequence[ProbeIds], images: np.ndarray) -> list[np.ndarray]:
        look_up = read("language.embed_tokens.weight").numpy().__getitem__
        prompts = embed(probes, images, look_up)
        del look_up
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

    return lambda probes, images: (compute_one(p, images[p.picture]) for p in probes)

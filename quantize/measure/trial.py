"""A variant that was just written answers a question on each device it is for, and is measured.

The figures are the CPU's where it has files for it. A GPU's files are opened by the GPU's backend,
on the GPU where torch sees one and else on torch's CPU, with the same code.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from quantize.cuda.parts import StoredTensors
from quantize.cuda_recipe import LANGUAGE_ROLE, VISION_ROLE
from quantize.measure.compare import (
    ComputeLogits,
    ExactProbes,
    measure_errors,
    run_layers,
    step_through,
)
from quantize.measure.prefill import prefill
from quantize.measure.probes import PROBES, make_pictures
from quantize.measure.reference import compute_image_tokens
from tinyv_cli.answers.slots import Slots
from tinyv_cli.answers.tokenizer import Tokenizer, open_tokenizer
from tinyv_cli.backends.backend import (
    Backend,
    BackendEncoder,
    BackendOptions,
    prefetch_nothing,
    resolve_threads,
)
from tinyv_cli.engine import Engine, OpenEngine
from tinyv_cli.machine.memory import give_back_freed
from tinyv_cli.pictures.image import to_pixels
from tinyv_cli.progress import Progress
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.session import AnswerOptions
from tinyv_cli.variants.manifest import MeasuredErrors, Variant
from weights.reading.checkpoint import MergedWeights

_SMOKE_TOKENS = 16
_SLOW_SMOKE_TOKENS = 4  # of a GPU's files on a CPU, where one takes 8 s at full size
_CUDA_POSITIONS = 512  # of its cache, which is taken as a whole; the probes need fewer


@dataclass(frozen=True)
class TrialResult:
    """A variant's answers, and its errors against full precision.

    Attributes:
        errors: of the CPU's files where there are some, else of the GPU's.
        answer: to the first probe's question, by the same files.
        cuda_answer: by the GPU's files where there are the CPU's too, else None.
    """

    errors: MeasuredErrors
    answer: str
    cuda_answer: str | None = None


@dataclass(frozen=True)
class Trial:
    """Tries one variant.

    Attributes:
        variant: its manifest's errors may be unmeasured.
        weights: that it was made from.
        threads: to work with, None for the physical cores.
        progress: is told of each step.
    """

    variant: Variant
    weights: MergedWeights
    threads: int | None
    progress: Progress

    def run(self, probes: ExactProbes, images: np.ndarray | None) -> TrialResult:
        """Answers a question on each device, and measures the first of them.

        Args:
            probes: as full precision computed them.
            images: their pictures' image tokens by the CPU's files, None where it has none.

        Raises:
            WeightsError: the runtime cannot read what was written.
            DeviceError: memory does not suffice.
        """
        self.weights.close()  # what was mapped to be rounded
        give_back_freed()
        if images is None:
            return self._try_cuda(probes)
        with ExitStack() as stack:
            with self.progress("opening the variant"):
                opened = stack.enter_context(self._engine.open())
            answer = self._answer(opened.backend, images)
        del opened  # and its weights
        compute = prefill(self.variant, resolve_threads(self.threads))
        errors = self._measure(compute, probes, images)
        if "cuda" not in self.variant.devices:
            return TrialResult(errors, answer)
        backend, image_tokens = self._open_cuda(self._make_pixels())
        cuda_answer = self._answer_by_cuda_files(backend, image_tokens)
        backend.close()
        return TrialResult(errors, answer, cuda_answer)

    def _try_cuda(self, probes: ExactProbes) -> TrialResult:
        """Tries a variant for a GPU alone."""
        spec, pixels = self.variant.manifest.spec, self._make_pixels()
        backend, images = self._open_cuda(pixels)
        answer = self._answer_by_cuda_files(backend, images)
        if backend.device == "cpu":
            # Here each token takes long: NF4 unpacks all matrices for it, 0.3 s a layer of full
            # width. What counts is how weights are rounded (activations keep 16 bits, also in
            # int8), so all probes' tokens go through one unpacked layer after the other instead.
            del backend  # and its weights
            stored = StoredTensors(self.variant.path(LANGUAGE_ROLE))
            errors = self._measure(run_layers(spec, stored.read), probes, images)
            return TrialResult(errors, answer)
        errors = self._measure(step_through(backend), probes, images)
        backend.close()
        return TrialResult(errors, answer)

    def _make_pixels(self) -> list[np.ndarray]:
        """Returns the probes' pictures as the network sees them, (1, 3, S, S) float32 each."""
        image_px = self.variant.manifest.spec.vision.image_px
        return [to_pixels(picture, image_px) for picture in make_pictures()]

    def _open_cuda(self, pixels: Sequence[np.ndarray]) -> tuple[Backend, np.ndarray]:
        with self.progress("opening the variant for the GPU"):
            return open_cuda(self.variant, self.threads, pixels)

    def _answer_by_cuda_files(self, backend: Backend, image_tokens: np.ndarray) -> str:
        n_tokens = _SLOW_SMOKE_TOKENS if backend.device == "cpu" else _SMOKE_TOKENS
        return self._answer(backend, image_tokens, n_tokens)

    def _answer(
        self, backend: Backend, image_tokens: np.ndarray, n_tokens: int = _SMOKE_TOKENS
    ) -> str:
        """Answers the first probe, greedily, from the image tokens (P, Q, D) of all."""
        engine, probe = self._engine, PROBES[0]
        encoder = _ReadyEncoder(image_tokens[[probe.picture]])
        slots = Slots(backend.slots, are_shared=False)
        opened = OpenEngine(engine, backend, self._tokenizer, encoder, slots)
        with self.progress("answering a question"):
            session = opened.start_session()
            session.show(make_pictures()[probe.picture], engine.image_px)
            return session.ask(probe.question, AnswerOptions(n_tokens)).finish().text

    def _measure(
        self, compute: ComputeLogits, probes: ExactProbes, images: np.ndarray
    ) -> MeasuredErrors:
        with self.progress("measuring against full precision"):
            return measure_errors(
                self.weights.spec,
                self.weights.read,
                compute,
                probes,
                images,
            )

    @property
    def _engine(self) -> Engine:
        """The variant on the CPU; its files were just written, and memory serves to write them."""
        template = TEMPLATES[self.variant.manifest.template]
        return Engine(self.variant, template, BackendOptions("cpu", self.threads))

    @property
    def _tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.variant)


def open_cuda(
    variant: Variant, threads: int | None, pixels: Sequence[np.ndarray]
) -> tuple[Backend, np.ndarray]:
    """Opens a GPU's files, one side after the other, on the GPU or else on torch's CPU.

    Args:
        variant: that has them.
        threads: to work with, None for the physical cores.
        pixels: of pictures, (1, 3, S, S) float32 each.

    Returns:
        The backend, its vision side closed, and the image tokens (P, Q, D) of the pictures.

    Raises:
        WeightsError: a file cannot be read.
        DeviceError: memory does not suffice.
    """
    from tinyv_cli.backends.cuda.torch_cuda import open_torch
    from tinyv_cli.backends.cuda.torch_weights import load_vision_side

    context_length = min(_CUDA_POSITIONS, variant.manifest.spec.language.context_length)
    options = BackendOptions("cuda", threads, context_length)
    image_tokens: list[np.ndarray] = []

    def encode(encoder: BackendEncoder, _: str) -> None:
        image_tokens.extend(encoder.encode(each) for each in pixels)
        encoder.close()

    if torch.cuda.is_available():
        backend = open_torch(variant, options, encode)
        return backend, np.concatenate(image_tokens)
    # In float32 as a whole, the vision side would take 4.4 GB: so the backend only checks that it
    # could load it, and one layer at a time computes.
    spec, path = variant.manifest.spec, variant.path(VISION_ROLE)
    load_vision_side(path, spec, "meta", torch.float16)
    tokens = compute_image_tokens(spec, StoredTensors(path).read, np.concatenate(pixels))
    return open_torch(variant, options, prefetch_nothing, device="cpu"), tokens


@dataclass(frozen=True)
class _ReadyEncoder:
    """Returns image tokens that were computed before: the vision side is not opened again."""

    image_tokens: np.ndarray

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Returns (1, Q, D) whatever the pixels (1, 3, S, S) are."""
        return self.image_tokens

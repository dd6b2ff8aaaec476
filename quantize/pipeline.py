"""A folder of sources becomes a variant: planned, written, measured, and only then moved in."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL.Image import Image

from quantize.calibrate.language import Calibration, CpuTarget, CudaTarget, Target
from quantize.cpu.decoder_graph import check_heads
from quantize.cpu.parts import PartWriter
from quantize.cpu.vision_side import write_vision_side
from quantize.language_side import Encode, LanguageSide, find_codes
from quantize.measure.compare import ExactProbes
from quantize.measure.probes import PROBES, make_pictures
from quantize.measure.reference import compute_image_tokens
from quantize.measure.trial import Trial
from quantize.plan import TOKENIZER, VariantPlan, make_plan
from quantize.recipe import RECIPES, TARGETS, Recipe
from quantize.request import QuantizeOptions, check_calibration, check_output, check_recipe
from tinyv_cli.answers.tokenizer import Tokenizer, derive_stop_ids
from tinyv_cli.backends.backend import resolve_threads
from tinyv_cli.backends.cpu.onnx_cpu import OnnxEncoder
from tinyv_cli.backends.cpu.onnx_sessions import open_graphs
from tinyv_cli.console import to_size
from tinyv_cli.disk.places import rounding_cache_dir
from tinyv_cli.disk.staging import build_beside, move_in
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.machine.memory import check_free_memory
from tinyv_cli.pictures.image import to_pixels
from tinyv_cli.progress import Progress, WholeProgress
from tinyv_cli.prompts.prompt import default_template
from tinyv_cli.variants.hashes import check_hashes, hash_file, remember_hashes
from tinyv_cli.variants.manifest import (
    CALIBRATED,
    FORMAT_VERSION,
    MANIFEST_NAME,
    NEAREST,
    FileEntry,
    Manifest,
    Variant,
    read_variant,
)
from weights.pulling.catalog import read_catalog
from weights.reading.checkpoint import MergedWeights, open_weights
from weights.reading.containers import FETCH_HINT
from weights.reading.sources import SourceFiles, resolve_sources
from weights.reading.tokenizer_json import read_tokenizer_json

T = TypeVar("T")


@dataclass(frozen=True)
class QuantizeResult:
    """A finished variant, and its answer to a question.

    Attributes:
        plan: that it was made by.
        smoke_picture: what the first of the probes shows.
        smoke_question: what it asks.
        smoke_answer: by its first device, the CPU where it has files for it.
        cuda_answer: by the GPU's files where it has the CPU's too, else None.
    """

    variant: Variant
    plan: VariantPlan
    smoke_picture: str
    smoke_question: str
    smoke_answer: str
    cuda_answer: str | None


def plan_variant(options: QuantizeOptions) -> VariantPlan:
    """Plans the variant that `make_variant` would make, without reading a weight.

    Raises:
        UsageError: there is no such target, or no recipe for it with so many bits.
        WeightsError: the sources are not what they should be.
    """
    check_recipe(options.bits, options.target, options.vision_bits)
    files = resolve_sources(options.sources, options.stage)
    with open_weights(files) as weights:
        plan = _plan(weights, options)
        read_tokenizer_json(files, weights.spec.language.vocab_size)
        return plan


def make_variant(options: QuantizeOptions, progress: Progress) -> QuantizeResult:
    """Makes a variant.

    Nothing is left of an attempt that fails; a variant that stood there stays until the new one is
    complete.

    Raises:
        UsageError: there is no such target, or no recipe for it with so many bits.
        WeightsError: the sources are not what they should be, the target exists, or the measured
            error is larger than accepted.
        DeviceError: memory or the disk is too small.
    """
    check_recipe(options.bits, options.target, options.vision_bits)
    check_calibration(options.bits, options.quick, options.calibrate)
    files = resolve_sources(options.sources, options.stage)
    target = options.output.absolute()
    check_output(target, options.force)
    with (
        open_weights(files) as weights,
        build_beside(target) as building,
        progress("quantising", WholeProgress.UNITS) as whole,
    ):
        plan = _plan(weights, options)
        check_free_memory("quantising", plan.least_bytes)
        progress = WholeProgress(whole, _list_shares(plan))
        tokenizer_json = read_tokenizer_json(files, weights.spec.language.vocab_size)
        check_known_hashes(files, progress)
        check_disk(target.parent, plan.disk_bytes, "the variant needs")
        (building / plan.files[TOKENIZER]).write_text(tokenizer_json, "utf-8")
        name = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
        kept = rounding_cache_dir() / name
        written = _Writing(building, weights, plan, options, kept, progress)
        recipe, probes, images = written.write()
        variant = _describe(building, weights, plan, recipe, progress)
        tried = Trial(variant, weights, options.threads, progress).run(probes, images)
        divergence, limit = tried.errors.logits_kl_nats, options.max_error
        if limit is not None and divergence > limit:
            low, high = tried.errors.logits_kl_low, tried.errors.logits_kl_high
            raise WeightsError(
                f"the logits diverge by {divergence:.4f} nats ({low:.4f}-{high:.4f} at 95 %), more "
                f"than {limit:g}",
                "use more bits: `--bits 8`, or a larger `--max-error`",
            )
        _write_manifest(building, replace(variant.manifest, errors=tried.errors))
        move_in(building, target, replace=options.force)
    shutil.rmtree(kept, ignore_errors=True)
    variant = read_variant(target)
    remember_hashes(variant.folder, variant.manifest.files)
    return QuantizeResult(
        variant, plan, PROBES[0].answer, PROBES[0].question, tried.answer, tried.cuda_answer
    )


def check_disk(folder: Path, needed_bytes: int, needs: str) -> None:
    """Checks that so much can be written.

    Args:
        folder: on the disk.
        needed_bytes: to write.
        needs: who does: `the variant needs`.

    Raises:
        DeviceError: it cannot.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DeviceError(
            f"{folder} has {to_size(free_bytes, 2)} free, {needs} {to_size(needed_bytes, 2)}",
            "free some space, or name a folder on another disk with `-o`",
        )


def check_known_hashes(files: SourceFiles, progress: Progress) -> None:
    """Compares files of a published name and length with their published SHA-256, once.

    Raises:
        WeightsError: one has another.
    """
    known = {each.path: each for each in read_catalog().list_files() if each.sha256}
    entries = []
    for path in files.all_files:
        name, size_bytes = files.label(path), path.stat().st_size
        published = known.get(name)
        if published is None or published.sha256 is None:
            continue
        # Of some only the rounded size is known: 2030000000 is right within 5000000. Random sources
        # of full size have the same names and come as near as 8 MB.
        rounded = str(published.about_bytes)
        slack_bytes = 10 ** (len(rounded) - len(rounded.rstrip("0"))) // 2
        is_near = abs(size_bytes - published.about_bytes) <= slack_bytes
        if size_bytes == published.size_bytes or (published.size_bytes is None and is_near):
            entries.append(FileEntry(name, size_bytes, published.sha256, "source"))
    check_hashes(files.folder, entries, progress, FETCH_HINT)


def _list_shares(plan: VariantPlan) -> dict[str, float]:
    """Lists the steps, and about how many seconds each takes at full size on two cores."""
    is_calibrated = plan.recipe.is_calibrated
    shares = {"computing the vision side in full precision": 60.0, "hashing": 20.0}
    shares |= {"measuring against full precision": 60.0, "answering a question": 5.0}
    if is_calibrated:
        shares["preparing what to round for"] = 40.0
    if plan.recipe.most_bits:
        shares["measuring where more bits gain most"] = 200.0
    if "cpu" in plan.devices:
        shares["rounding the vision side"] = 60.0
        shares["rounding the language model"] = 500.0 if is_calibrated else 180.0
    if "cuda" in plan.devices:
        shares["rounding for the GPU"] = 600.0 if is_calibrated else 200.0
    return shares


def _plan(weights: MergedWeights, options: QuantizeOptions) -> VariantPlan:
    devices = TARGETS[options.target]
    if "cpu" in devices:
        check_heads(weights.spec.language)
    recipe = RECIPES[options.bits]
    if options.quick:
        recipe = replace(recipe, is_calibrated=False)
    if recipe.most_bits:  # which matrices get them is measured later; so many bytes they will be
        recipe = recipe.spend(weights.shapes, sorted(weights.shapes))
    return make_plan(weights.spec, weights.shapes, recipe, devices, options.vision_bits)


@dataclass(frozen=True)
class _Writing:
    """Writes the files of each device.

    Attributes:
        building: the folder, which holds the tokenizer already.
        weights: in full precision.
        plan: of the variant.
        options: the user's.
        kept: a folder for layers that are rounded already.
        progress: is told of each step.
        asked: names of the tensors that were asked for.
    """

    building: Path
    weights: MergedWeights
    plan: VariantPlan
    options: QuantizeOptions
    kept: Path
    progress: Progress
    asked: set[str] = field(default_factory=set)

    def write(self) -> tuple[Recipe, ExactProbes, np.ndarray | None]:
        """Writes everything but tokenizer and manifest.

        Returns:
            The recipe after the choices that were left to measurement, the probes in full
            precision, and their image tokens by the CPU's files, None where there are none.
        """
        if self.plan.devices == ("cuda",):
            pixels = self._to_pixels(make_pictures())
            with self.progress("computing the vision side in full precision"):
                exact = self._encode_exactly(pixels)
            return self.plan.recipe, self._write_cuda_parts(exact), None
        recipe, probes, images = self._write_cpu_parts()
        if "cuda" in self.plan.devices:
            self._write_cuda_parts(probes.images)
        return recipe, probes, images

    def _write_cpu_parts(self) -> tuple[Recipe, ExactProbes, np.ndarray]:
        recipe, threads = RECIPES[self.options.bits], self._threads
        read = self._noting(self.weights.read)
        writer = PartWriter(self.building, self.plan, recipe, read, threads, self.progress)
        recipe, encoded = write_vision_side(writer, self.weights)
        paths = [self.building / name for name in self.plan.graphs("vision")]
        encoder = OnnxEncoder(lambda: open_graphs(paths, threads))
        side = self._make_side(encoded.exact)
        if recipe.most_bits:
            with self.progress("measuring where more bits gain most"):
                recipe = recipe.spend(self.weights.shapes, side.rank_matrices())
            writer = replace(writer, recipe=recipe)
        calibration = self._calibrate(
            CpuTarget(recipe, threads),
            lambda pixels: np.concatenate([encoder.encode(each) for each in pixels]),
        )
        encoder.close()
        passed = side.open_pass(None if self.options.quick else recipe, calibration)
        codes = self._noting(find_codes(passed, recipe, threads))
        writer = replace(writer, read=self._noting(passed.read), find_codes=codes)
        writer.write_decoder()
        writer.write_embeddings()
        self._check_all_asked()
        for name in sorted(passed.unfit):
            rounding = replace(recipe.rounding(name), float_activations=True)
            recipe = recipe.replace_rounding([name], rounding)
        return recipe, side.finish(passed), encoded.rounded

    def _write_cuda_parts(self, exact: np.ndarray) -> ExactProbes:
        from quantize.cuda.parts import write_cuda_parts

        side = self._make_side(exact)
        calibration = self._calibrate(CudaTarget(), self._encode_exactly)
        passed = side.open_pass(None, calibration)
        read, find = self._noting(passed.read), self._noting(passed.find)
        shapes = self.weights.shapes
        write_cuda_parts(self.building, self.plan, shapes, read, self.progress, find)
        self._check_all_asked()
        return side.finish(passed)

    def _calibrate(self, target: Target, encode: Encode) -> Calibration | None:
        """Makes the streams to round for, None where matrices are rounded to the nearest."""
        if not self.plan.recipe.is_calibrated:
            return None
        with self.progress("preparing what to round for"):
            own, folder = self.options.calibrate, self.kept / type(target).__name__
            return self._make_side(np.empty(0)).make_calibration(target, encode, own, folder)

    def _make_side(self, exact: np.ndarray) -> LanguageSide:
        tokenizer = Tokenizer(self.building / self.plan.files[TOKENIZER])
        return LanguageSide(self.weights, tokenizer, exact, self._threads)

    def _encode_exactly(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        return compute_image_tokens(self.weights.spec, self.weights.read, np.concatenate(pixels))

    def _to_pixels(self, pictures: Sequence[Image]) -> list[np.ndarray]:
        return [to_pixels(each, self.weights.spec.vision.image_px) for each in pictures]

    def _noting(self, take: Callable[[str], T]) -> Callable[[str], T]:
        """Wraps what takes a tensor's name, so that it is known which were asked for."""

        def note_and_take(name: str) -> T:
            self.asked.add(name)
            return take(name)

        return note_and_take

    def _check_all_asked(self) -> None:
        """Checks that no tensor was left out of a device's files."""
        assert self.asked == set(self.weights.names), "a tensor of the sources was written nowhere"
        self.asked.clear()

    @property
    def _threads(self) -> int:
        return resolve_threads(self.options.threads)


def _describe(
    building: Path,
    weights: MergedWeights,
    plan: VariantPlan,
    recipe: Recipe,
    progress: Progress,
) -> Variant:
    """Writes the manifest, its errors still unmeasured, and reads the variant back."""
    sources = weights.files.all_files
    written = [(role, building / name) for role, name in plan.files.items()]
    total_bytes = sum(path.stat().st_size for path in (*sources, *(p for _, p in written)))
    with progress("hashing", total_bytes, "bytes") as bar:

        def describe(path: Path, folder: Path, role: str) -> FileEntry:
            name = path.relative_to(folder).as_posix()
            return FileEntry(name, path.stat().st_size, hash_file(path, bar), role)

        files = tuple(describe(path, building, role) for role, path in written)
        origin = tuple(describe(path, weights.files.folder, "source") for path in sources)
    tokenizer = Tokenizer(building / plan.files[TOKENIZER])
    described: dict[str, Any] = recipe.to_dict() if "cpu" in plan.devices else {"bits": recipe.bits}
    described["rounding"] = CALIBRATED if plan.recipe.is_calibrated else NEAREST
    if "cuda" in plan.devices:
        described["cuda"] = plan.cuda_recipe.to_dict()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bits=recipe.bits,
        spec=weights.spec,
        template=default_template(weights.spec.stage),
        stop_ids=tuple(derive_stop_ids(tokenizer)),
        recipe=described,
        sources=origin,
        files=files,
        errors=None,
        made_by=f"tinyv {version('tinyv')}",
    )
    return _write_manifest(building, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> Variant:
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return read_variant(folder)

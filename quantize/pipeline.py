"""A folder of sources becomes a variant: planned, written, measured, and only then moved in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from quantize.cpu.decoder_graph import check_heads
from quantize.cpu.parts import PartWriter
from quantize.cpu.vision_side import write_vision_side
from quantize.measure.probes import PROBES, EncodedProbes
from quantize.measure.trial import Trial
from quantize.plan import TARGETS, TOKENIZER, VariantPlan, make_plan
from quantize.recipe import RECIPES, Recipe
from quantize.request import QuantizeOptions, check_output, check_recipe
from tinyv_cli.answers.tokenizer import Tokenizer, derive_stop_ids
from tinyv_cli.backends.backend import resolve_threads
from tinyv_cli.console import to_size
from tinyv_cli.disk.staging import build_beside, move_in
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.progress import Progress
from tinyv_cli.prompts.prompt import default_template
from tinyv_cli.variants.hashes import check_hashes, hash_file, remember_hashes
from tinyv_cli.variants.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    Variant,
    read_variant,
)
from weights.pulling.catalog import read_catalog
from weights.reading.checkpoint import MergedWeights, ReadTensor, open_weights
from weights.reading.containers import FETCH_HINT
from weights.reading.sources import SourceFiles, resolve_sources
from weights.reading.tokenizer_json import read_tokenizer_json


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
        DeviceError: the disk is too small.
    """
    check_recipe(options.bits, options.target, options.vision_bits)
    files = resolve_sources(options.sources, options.stage)
    target = options.output.absolute()
    check_output(target, options.force)
    with open_weights(files) as weights, build_beside(target) as building:
        plan = _plan(weights, options)
        tokenizer_json = read_tokenizer_json(files, weights.spec.language.vocab_size)
        _check_known_hashes(files, progress)
        free_bytes = shutil.disk_usage(building).free
        if free_bytes < plan.disk_bytes:
            raise DeviceError(
                f"{target.parent} has {to_size(free_bytes, 2)} free, the variant needs "
                f"{to_size(plan.disk_bytes, 2)}",
                "free some space, or name a folder on another disk with `-o`",
            )
        recipe, images = _write_parts(building, weights, plan, options, progress)
        (building / plan.files[TOKENIZER]).write_text(tokenizer_json, "utf-8")
        variant = _describe(building, weights, plan, recipe, progress)
        trial = Trial(variant, weights, options.threads, progress).run(images)
        divergence, limit = trial.errors.logits_kl_nats, options.max_error
        if limit is not None and divergence > limit:
            raise WeightsError(
                f"the logits diverge by {divergence:.4f} nats, more than {limit:g}",
                "use more bits: `--bits 8`, or a larger `--max-error`",
            )
        _write_manifest(building, replace(variant.manifest, errors=trial.errors))
        move_in(building, target, replace=options.force)
    variant = read_variant(target)
    remember_hashes(variant.folder, variant.manifest.files)
    return QuantizeResult(
        variant, plan, PROBES[0].answer, PROBES[0].question, trial.answer, trial.cuda_answer
    )


def _check_known_hashes(files: SourceFiles, progress: Progress) -> None:
    """Compares files of a published name and length with their published SHA-256, once."""
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


def _plan(weights: MergedWeights, options: QuantizeOptions) -> VariantPlan:
    devices = TARGETS[options.target]
    if "cpu" in devices:
        check_heads(weights.spec.language)
    recipe = RECIPES[options.bits]
    return make_plan(weights.spec, weights.shapes, recipe, devices, options.vision_bits)


def _write_parts(
    building: Path,
    weights: MergedWeights,
    plan: VariantPlan,
    options: QuantizeOptions,
    progress: Progress,
) -> tuple[Recipe, EncodedProbes | None]:
    """Writes the files of each device.

    Returns:
        The recipe after the choices that were left to measurement, and the probes' image tokens,
        None where there are no files for the CPU.
    """
    recipe, images = plan.recipe, None
    if "cpu" in plan.devices:
        with _reading_all(weights) as read:
            threads = resolve_threads(options.threads)
            writer = PartWriter(building, plan, recipe, read, threads, progress)
            recipe, images = write_vision_side(writer, weights)
            writer.write_decoder()
            writer.write_embeddings()
    if "cuda" in plan.devices:
        from quantize.cuda.parts import write_cuda_parts

        with _reading_all(weights) as read:
            write_cuda_parts(building, plan, weights.shapes, read, progress)
    return recipe, images


@contextmanager
def _reading_all(weights: MergedWeights) -> Iterator[ReadTensor]:
    """Yields a reader, and checks at the end that no tensor was left out."""
    names = set()

    def read(name: str) -> Tensor:
        names.add(name)
        return weights.read(name)

    yield read
    assert names == set(weights.names), "a tensor of the sources was written nowhere"


def _describe(
    building: Path, weights: MergedWeights, plan: VariantPlan, recipe: Recipe, progress: Progress
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

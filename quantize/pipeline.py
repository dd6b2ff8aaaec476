"""A folder of sources becomes a variant: planned, written, measured, and only then moved in.

Joins the parts of the workshop; shows nothing itself, but tells a `Progress` how far it is.
"""

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from quantize.compare import measure_errors
from quantize.decoder_graph import check_heads
from quantize.parts import PartWriter, SeenNames
from quantize.plan import TOKENIZER, Plan, make_plan
from quantize.probes import PROBES, make_pictures
from quantize.recipe import RECIPES, Recipe
from quantize.staging import build_beside, move_in
from quantize.vision_side import EncodedProbes, write_vision_side
from tinyv_cli.backends import Backend, BackendOptions, open_backend
from tinyv_cli.backends.threads import resolve_threads
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.hashes import hash_file, remember_hashes
from tinyv_cli.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    MeasuredErrors,
    Variant,
    read_variant,
)
from tinyv_cli.progress import Progress
from tinyv_cli.prompt import TEMPLATES, default_template
from tinyv_cli.session import AnswerOptions, Session
from tinyv_cli.tokenizer import Tokenizer, derive_stop_ids
from weights.checkpoint import MergedWeights, open_weights
from weights.sources import SourceFiles, read_tokenizer_json, resolve_sources

_SMOKE_TOKENS = 16


@dataclass(frozen=True)
class QuantizeOptions:
    """What the user asked for.

    Attributes:
        sources: the folder of public files.
        output: the variant's folder.
        bits: 4, 8 or 32.
        stage: which checkpoint, None for the highest.
        force: whether a variant that stands there is replaced.
        max_error: largest mean divergence of the logits that is accepted, in nats; None for any.
        threads: to work with, None for the physical cores.
    """

    sources: Path
    output: Path
    bits: int = 4
    stage: int | None = None
    force: bool = False
    max_error: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class QuantizeResult:
    """A finished variant, and what it says when it is asked something."""

    variant: Variant
    plan: Plan
    smoke_question: str
    smoke_answer: str


def plan_variant(options: QuantizeOptions) -> Plan:
    """Computes what `make_variant` would make, from names and shapes alone.

    Raises:
        UsageError: there is no recipe for so many bits.
        WeightsError: the sources are not what they should be.
    """
    with open_weights(_resolve(options)) as weights:
        return _plan(weights, _choose_recipe(options))


def make_variant(options: QuantizeOptions, progress: Progress) -> QuantizeResult:
    """Makes a variant.

    Nothing is left of an attempt that fails; a variant that stood there stays until the new one is
    complete.

    Raises:
        UsageError: there is no recipe for so many bits.
        WeightsError: the sources are not what they should be, the target exists, or the measured
            error is larger than accepted.
        DeviceError: the disk is too small.
    """
    recipe = _choose_recipe(options)
    files = _resolve(options)
    target = options.output.absolute()
    _check_target(target, options)
    with open_weights(files) as weights, build_beside(target) as building:
        plan = _plan(weights, recipe)
        _check_disk(target, plan)
        recipe, images = _write_parts(building, weights, plan, options, progress)
        (building / plan.files[TOKENIZER]).write_text(read_tokenizer_json(files), "utf-8")
        variant = _describe(building, weights, plan, recipe, progress)
        variant, answer = _try_out(variant, weights, images, options, progress)
        move_in(building, target, replace=options.force)
    variant = read_variant(target)
    remember_hashes(variant.folder, variant.manifest.files)
    return QuantizeResult(variant, plan, PROBES[0].question, answer)


def _resolve(options: QuantizeOptions) -> SourceFiles:
    return resolve_sources(options.sources, options.stage)


def _choose_recipe(options: QuantizeOptions) -> Recipe:
    if options.bits not in RECIPES:
        known = ", ".join(str(bits) for bits in RECIPES)
        raise UsageError(
            f"there is no recipe for {options.bits} bits", f"use `--bits` with {known}"
        )
    return RECIPES[options.bits]


def _plan(weights: MergedWeights, recipe: Recipe) -> Plan:
    check_heads(weights.spec.language)
    return make_plan(weights.spec, weights.shapes, recipe)


def _check_target(target: Path, options: QuantizeOptions) -> None:
    """Refuses, before anything is read, what could not be moved in at the end."""
    if not target.exists():
        return
    if not options.force:
        raise WeightsError(
            f"{target} exists already", "use `--force` to replace it, or `-o` with another name"
        )
    if not (target / MANIFEST_NAME).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} is not a variant, `--force` does not replace it",
            "name another folder with `-o`",
        )


def _check_disk(target: Path, plan: Plan) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < plan.disk_bytes:
        raise DeviceError(
            f"{target.parent} has {free_bytes / 1e9:.1f} GB free, the variant needs "
            f"{plan.disk_bytes / 1e9:.1f} GB",
            "free some space, or name a folder on another disk with `-o`",
        )


def _write_parts(
    building: Path,
    weights: MergedWeights,
    plan: Plan,
    options: QuantizeOptions,
    progress: Progress,
) -> tuple[Recipe, EncodedProbes]:
    """Writes graphs, their data and the embeddings.

    Returns:
        The recipe after the choices that were left to measurement, and the probes' image tokens.
    """
    read = SeenNames(weights.read)
    threads = resolve_threads(options.threads)
    writer = PartWriter(building, plan, plan.recipe, read, threads, progress)
    recipe, images = write_vision_side(writer, weights)
    writer.write_decoder()
    writer.write_embeddings()
    assert read.names == set(weights.names), "a tensor of the sources was written nowhere"
    return recipe, images


def _describe(
    building: Path, weights: MergedWeights, plan: Plan, recipe: Recipe, progress: Progress
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
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bits=recipe.bits,
        spec=weights.spec,
        template=default_template(weights.spec.stage),
        stop_ids=tuple(derive_stop_ids(tokenizer)),
        recipe=recipe.to_dict(),
        sources=origin,
        files=files,
        errors=None,
        made_by=f"tinyv {version('tinyv')}",
    )
    return _write_manifest(building, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> Variant:
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return read_variant(folder)


def _try_out(
    variant: Variant,
    weights: MergedWeights,
    images: EncodedProbes,
    options: QuantizeOptions,
    progress: Progress,
) -> tuple[Variant, str]:
    """Opens the variant, lets it answer once and measures it against the sources.

    Returns:
        The variant with its errors, and the answer.
    """
    tokenizer = Tokenizer(variant.path("tokenizer"))
    weights.close()  # what was mapped to be rounded
    with progress("answering a question"):
        backend = open_backend(variant, BackendOptions("cpu", options.threads))
        answer = _answer_once(replace(backend, encoder=_ProbeEncoder(images)), tokenizer, variant)
    with progress("measuring against full precision"):
        template = variant.manifest.template
        errors = measure_errors(weights.spec, weights.read, backend, tokenizer, template, images)
    _check_error(errors, options.max_error)
    return _write_manifest(variant.folder, replace(variant.manifest, errors=errors)), answer


def _check_error(errors: MeasuredErrors, max_error: float | None) -> None:
    if max_error is not None and errors.logits_kl_nats > max_error:
        raise WeightsError(
            f"the logits diverge by {errors.logits_kl_nats:.4f} nats, more than {max_error:g}",
            "use more bits: `--bits 8`, or a larger `--max-error`",
        )


@dataclass(frozen=True)
class _ProbeEncoder:
    """Gives the first probe's image tokens, which the variant computed before.

    With the vision side opened again, making a variant would take a third more memory.
    """

    images: EncodedProbes

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Gives (1, Q, D) whatever the pixels (1, 3, S, S) are."""
        return self.images.rounded[[PROBES[0].picture]]


def _answer_once(backend: Backend, tokenizer: Tokenizer, variant: Variant) -> str:
    """The answer to the first probe, greedily."""
    session = Session(
        backend, tokenizer, TEMPLATES[variant.manifest.template], notify=lambda _: None
    )
    session.show(make_pictures()[PROBES[0].picture], variant.manifest.spec.vision.image_px)
    return session.ask(PROBES[0].question, AnswerOptions(_SMOKE_TOKENS)).finish().text

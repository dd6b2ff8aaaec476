"""A folder of sources becomes a variant: planned, written, measured, and only then moved in.

Joins the parts of the workshop; shows nothing itself, but tells a `Progress` how far it is.
"""

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from quantize.compare import measure_errors
from quantize.decoder_graph import check_heads, write_decoder
from quantize.graph import GraphWriter, ReadTensor
from quantize.groupwise import round_matrix
from quantize.plan import EMBEDDINGS, FILES, Plan, make_plan
from quantize.probes import PROBES, make_pictures
from quantize.recipe import RECIPES, Recipe
from quantize.staging import build_beside, move_in
from quantize.vision_graph import fold_projections, write_vision
from tinyv_cli.backends import Backend, BackendOptions, open_backend
from tinyv_cli.backends.packed import PackedPart
from tinyv_cli.backends.threads import resolve_threads
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.hashes import forget_hashes, hash_file, remember_hashes
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

_PACKED_ROLES = ("vision", "decoder")
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
        _write_parts(building, weights, recipe, resolve_threads(options.threads), progress)
        (building / FILES["tokenizer"]).write_text(read_tokenizer_json(files), "utf-8")
        variant = _describe(building, weights, recipe, progress)
        variant, answer = _try_out(variant, weights, options, progress)
        move_in(building, target, replace=options.force)
        forget_hashes(building)
        for role in _PACKED_ROLES:
            forget_hashes(PackedPart(variant, role).folder)
    return QuantizeResult(_settle(target), plan, PROBES[0].question, answer)


def _settle(target: Path) -> Variant:
    """Reads the moved variant and notes that its files were hashed already."""
    variant = read_variant(target)
    remember_hashes(variant.folder, variant.manifest.files)
    for role in _PACKED_ROLES:
        PackedPart(variant, role).remember()
    return variant


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
    return make_plan(weights.spec, {name: weights.shape(name) for name in weights.names}, recipe)


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
    building: Path, weights: MergedWeights, recipe: Recipe, threads: int, progress: Progress
) -> None:
    """Writes graphs, their data and the embeddings; every tensor is read once."""
    seen: set[str] = set()

    def read(name: str) -> torch.Tensor:
        seen.add(name)
        return weights.read(name)

    spec = weights.spec
    n_steps = spec.vision.n_layers + spec.qformer.n_layers
    with (
        GraphWriter(building / FILES["vision"], recipe, fold_projections(read), threads) as graph,
        progress("rounding the vision side", n_steps) as bar,
    ):
        write_vision(graph, spec, bar.advance)
    with (
        GraphWriter(building / FILES["decoder"], recipe, read, threads) as graph,
        progress("rounding the language model", spec.language.n_layers + 1) as bar,
    ):
        write_decoder(graph, spec.language, bar.advance)
    _write_embeddings(building, recipe, threads, read)
    assert seen == set(weights.names), "a tensor was read from the sources and written nowhere"


def _write_embeddings(building: Path, recipe: Recipe, threads: int, read: ReadTensor) -> None:
    """Writes the embedding table: float32 rows, or codes and their scales and offsets."""
    rounding = recipe.rounding(EMBEDDINGS)
    table = read(EMBEDDINGS)
    if not rounding.has_codes:
        np.save(building / FILES["embeddings"], table.numpy())
        return
    rounded = round_matrix(table, rounding, threads)
    offsets = -rounded.zero_points.float() * rounded.scales
    scales = np.stack([rounded.scales.numpy(), offsets.numpy()], axis=-1)
    np.save(building / FILES["embeddings"], rounded.codes.numpy())
    np.save(building / FILES["embeddings-scales"], scales)


def _describe(
    building: Path, weights: MergedWeights, recipe: Recipe, progress: Progress
) -> Variant:
    """Writes the manifest, its errors still unmeasured, and reads the variant back."""
    sources = weights.files.all_files
    written = [(role, building / name) for role, name in FILES.items()]
    written = [(role, path) for role, path in written if path.exists()]
    total_bytes = sum(path.stat().st_size for path in (*sources, *(p for _, p in written)))
    with progress("hashing", total_bytes, "bytes") as bar:

        def describe(path: Path, folder: Path, role: str) -> FileEntry:
            name = path.relative_to(folder).as_posix()
            return FileEntry(name, path.stat().st_size, hash_file(path, bar), role)

        files = tuple(describe(path, building, role) for role, path in written)
        origin = tuple(describe(path, weights.files.folder, "source") for path in sources)
    tokenizer = Tokenizer(building / FILES["tokenizer"])
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
    variant: Variant, weights: MergedWeights, options: QuantizeOptions, progress: Progress
) -> tuple[Variant, str]:
    """Opens the variant, measures it against the sources and lets it answer once.

    Returns:
        The variant with its errors, and the answer.
    """
    tokenizer = Tokenizer(variant.path("tokenizer"))
    with progress("packing for this machine"):
        backend = open_backend(variant, BackendOptions("cpu", options.threads), lambda _: None)
        answer = _answer_once(backend, tokenizer, variant)
    with progress("measuring against full precision"):
        errors = measure_errors(
            weights.spec, weights.read, backend, tokenizer, variant.manifest.template
        )
    _check_error(errors, options.max_error)
    return _write_manifest(variant.folder, replace(variant.manifest, errors=errors)), answer


def _check_error(errors: MeasuredErrors, max_error: float | None) -> None:
    if max_error is not None and errors.logits_kl_nats > max_error:
        raise WeightsError(
            f"the logits diverge by {errors.logits_kl_nats:.4f} nats, more than {max_error:g}",
            "use more bits: `--bits 8`, or a larger `--max-error`",
        )


def _answer_once(backend: Backend, tokenizer: Tokenizer, variant: Variant) -> str:
    """The answer to the first probe, greedily."""
    session = Session(
        backend, tokenizer, TEMPLATES[variant.manifest.template], notify=lambda _: None
    )
    session.show(make_pictures()[PROBES[0].picture], variant.manifest.spec.vision.image_px)
    return session.ask(PROBES[0].question, AnswerOptions(_SMOKE_TOKENS)).finish().text

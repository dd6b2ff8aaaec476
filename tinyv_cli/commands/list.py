"""The variants on this computer become a table, or one JSON document; opens no weights."""

from dataclasses import asdict
from typing import Any

from tinyv_cli.console import Console, to_size, to_table
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.options.report import ListArguments
from tinyv_cli.variants.home import HOW_TO_MAKE_ONE, DamagedVariant, list_named_variants
from tinyv_cli.variants.manifest import MeasuredErrors, Variant

HEADER = ("name", "size", "bits", "stage", "logits KL (nats)", "same best token", "image cosine")


def print_variants(arguments: ListArguments) -> None:
    """Does what `tinyv list` says.

    Raises:
        WeightsError: the folder of variants cannot be read.
    """
    console = Console()
    found = list_named_variants()
    if arguments.json:
        console.write_json({"variants": [to_document(each) for each in found]})
        return
    if not found:
        console.write_note(f"there is no variant in {variants_dir()}; {HOW_TO_MAKE_ONE}")
        return
    sound = [each for each in found if isinstance(each, Variant)]
    if sound:
        console.write_line(to_table(HEADER, [_to_row(variant) for variant in sound]))
    for each in found:
        if isinstance(each, DamagedVariant):
            console.write_line(f"{each.name}  damaged: {each.error.problem}")


def to_document(variant: Variant | DamagedVariant) -> dict[str, Any]:
    """What `--json` prints of one variant; `damaged` is null for a sound one."""
    if isinstance(variant, DamagedVariant):
        damage = {"problem": variant.error.problem, "hint": variant.error.hint}
        return {"name": variant.name, "folder": str(variant.folder), "damaged": damage}
    manifest = variant.manifest
    return {
        "name": variant.name,
        "folder": str(variant.folder),
        "size_bytes": manifest.size_bytes,
        "bits": manifest.bits,
        "stage": manifest.spec.stage,
        "template": manifest.template,
        "errors": asdict(manifest.errors) if manifest.errors else None,
        "damaged": None,
    }


def to_error_cells(errors: MeasuredErrors | None) -> list[str]:
    """Divergence, agreement and cosine for a table; dashes where nothing was measured."""
    if errors is None:
        return ["-", "-", "-"]
    return [
        f"{errors.logits_kl_nats:.4f}",
        f"{100 * errors.top1_agreement:.1f} %",
        f"{errors.image_token_cosine_mean:.4f}",
    ]


def _to_row(variant: Variant) -> list[str]:
    """One line of the table."""
    manifest = variant.manifest
    size, stage = to_size(manifest.size_bytes), str(manifest.spec.stage)
    return [variant.name, size, str(manifest.bits), stage, *to_error_cells(manifest.errors)]

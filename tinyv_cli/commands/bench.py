"""A variant becomes figures of its speed on this machine, as a table and one document.

Words, variant and files named are looked at first; what is measured lies in `benchmark/`.
"""

import time
from typing import TYPE_CHECKING, Any

from tinyv_cli.commands.opening import (
    check_variant,
    open_session,
    resolve_device,
    resolve_template,
)
from tinyv_cli.console import Console
from tinyv_cli.devices.names import is_card, to_kind
from tinyv_cli.errors import InputError
from tinyv_cli.options.report import BenchArguments
from tinyv_cli.variants.home import resolve_variant
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.miniature import tell_miniature

if TYPE_CHECKING:
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.benchmark.measure import Plan, Subject

_N_REPEATS = 3
_FIGURE_S = 6.0  # without `--repeats`, what took longer is not repeated: under a minute in all


def measure_variant(arguments: BenchArguments) -> None:
    """Does what `tinyv bench` says.

    Raises:
        UsageError: a device, a number or a chart's name that makes no sense.
        InputError: the earlier document cannot be used, or the context is too short.
        WeightsError: there is no such variant, or it is damaged.
        DeviceError: the device cannot run it, or the chart cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.benchmark.chart import check_chart, draw_chart, write_chart
    from tinyv_cli.benchmark.report import read_earlier

    started = time.perf_counter()
    console = Console(quiet=arguments.quiet)
    earlier = read_earlier(arguments.against) if arguments.against else None
    if arguments.chart:
        check_chart(arguments.chart)
    variant = resolve_variant(arguments.model)
    tell_miniature(variant, console.write_note)
    wanted = BackendOptions(arguments.device, arguments.threads, arguments.ctx_size)
    device, _ = resolve_device(variant, wanted, console)
    check_variant(variant, console)
    document = _measure(arguments, variant, device, console)
    document["seconds"] = time.perf_counter() - started
    _write_figures(arguments, document, earlier, console)
    if arguments.chart:
        title = f"{variant.name} on {document['machine']['processor']}"
        write_chart(draw_chart(document["details"], title), arguments.chart)
        console.write_note(f"the chart is in {arguments.chart}")


def _measure(
    arguments: BenchArguments, variant: Variant, device: "BackendOptions", console: Console
) -> dict[str, Any]:
    """Measures program, variant and machine, one after the other."""
    from tinyv_cli.backends.threads import resolve_threads
    from tinyv_cli.benchmark.bandwidth import measure_bandwidth
    from tinyv_cli.benchmark.machine import describe_machine
    from tinyv_cli.benchmark.measure import count_bytes_per_token, measure, measure_start
    from tinyv_cli.benchmark.report import make_bench_document

    # A moving bar is drawn by a thread of its own, which would take time from what is timed.
    def tell(what: str) -> None:
        console.write_note(f"measuring {variant.name}: {what}")

    threads = resolve_threads(arguments.threads)
    plan, subject = _make_plan(arguments), _make_subject(variant, device, console)
    start_s = measure_start(plan.repeats)
    try:
        measured = measure(subject, plan, tell)
    except InputError as error:
        hint = "give it more room: `tinyv bench --ctx-size 512`"
        raise InputError(error.problem, hint) from error
    tell("memory")
    read_gb_s = measure_bandwidth(threads)
    if is_card(device.device):
        console.write_note("memory and its speed are the computer's, not the card's")
    n_bytes = {
        depth: count_bytes_per_token(variant.manifest, depth, to_kind(device.device))
        for depth in measured.decode_tok_s
    }
    figures = make_bench_document(measured, start_s, read_gb_s, n_bytes)
    about = {"model": variant.name, "bits": variant.manifest.bits}
    return {**about, **figures, "machine": describe_machine(threads)}


def _make_plan(arguments: BenchArguments) -> "Plan":
    """What is measured how often: as often as asked for, else as time allows."""
    from tinyv_cli.benchmark.measure import Plan
    from tinyv_cli.benchmark.spread import Repeats

    if arguments.repeats is None:
        return Plan(Repeats(_N_REPEATS, _FIGURE_S))
    return Plan(Repeats(arguments.repeats))


def _make_subject(variant: Variant, device: "BackendOptions", console: Console) -> "Subject":
    """The variant as `tinyv ask` opens it."""
    from tinyv_cli.benchmark.measure import Subject

    template = resolve_template(variant, None)
    spec = variant.manifest.spec
    return Subject(
        open=lambda: open_session(variant, template, device, console),
        image_px=spec.vision.image_px,
        vocab_size=spec.language.vocab_size,
    )


def _write_figures(
    arguments: BenchArguments,
    document: dict[str, Any],
    earlier: dict[str, Any] | None,
    console: Console,
) -> None:
    """Writes the table to stderr, and the document to stdout where it is asked for."""
    from tinyv_cli.benchmark.report import compare, list_differences, to_report

    machine = document["machine"]
    console.write_report(
        f"{document['model']}, {document['bits']} bits, on {document['details']['device']}: "
        f"{machine['processor']}, threads: {machine['threads']}, "
        f"onnxruntime {machine['onnxruntime']}\n\n{to_report(document, earlier)}"
    )
    document["against"] = None
    if earlier is not None:
        document["against"] = {
            "file": str(arguments.against),
            "model": earlier.get("model"),
            "ratios": compare(document, earlier),
        }
        differences = list_differences(document, earlier)
        if differences:
            console.write_note(f"{arguments.against} is of another run: {', '.join(differences)}")
    if arguments.json:
        console.write_json(document)

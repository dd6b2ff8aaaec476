"""A variant becomes figures of its speed on this machine, as a table and one document.

Flags, the variant and named files are checked first; what is measured lies in `benchmark/`.
"""

import time
from typing import TYPE_CHECKING, Any

from tinyv_cli.console import Console
from tinyv_cli.devices.names import is_cuda, to_kind
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import InputError
from tinyv_cli.options.declare import whole
from tinyv_cli.options.report import BenchArguments
from tinyv_cli.options.shared import to_backend_options

if TYPE_CHECKING:
    from tinyv_cli.benchmark.measure import BenchPlan

_MEMORY_WAY_OUT = (
    "close other programs, use fewer bits (`tinyv quantize --bits 4`) or a shorter context "
    "(`-c 512`), or allow more: `--memory-budget 8GB`"
)
_N_REPEATS = 3
_FIGURE_S = 6.0  # without `--repeats`, what took longer is not repeated: under a minute in all


def measure_variant(arguments: BenchArguments) -> None:
    """Runs `tinyv bench`.

    Raises:
        UsageError: a device, a number or a chart's name that makes no sense.
        InputError: the earlier document cannot be used, or the context is too short.
        WeightsError: there is no such variant, or it is damaged.
        DeviceError: the device cannot run it, or the chart cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    from tinyv_cli.benchmark.chart import check_chart, draw_chart, write_chart
    from tinyv_cli.benchmark.measure import BenchPlan
    from tinyv_cli.benchmark.report import compare, list_differences, read_earlier, to_report
    from tinyv_cli.benchmark.spread import Repeats

    started = time.perf_counter()
    console = Console(quiet=arguments.quiet)
    earlier = read_earlier(arguments.against) if arguments.against else None
    if arguments.chart:
        check_chart(arguments.chart, replaces=arguments.force)
    n = arguments.repeats
    repeats = Repeats(_N_REPEATS, _FIGURE_S) if n is None else Repeats(n)
    plan = BenchPlan(repeats, parallel=_read_numbers(arguments.parallel))
    engine = plan_engine(
        find_variant(arguments.model),
        to_backend_options(arguments),
        Demand(plan.n_positions, way_out=_MEMORY_WAY_OUT),
        console.write_note,
        console.progress,
    )
    document = _measure(engine, plan, console)
    document["seconds"] = time.perf_counter() - started
    machine, details = document["machine"], document["details"]
    console.write_report(
        f"{document['model']}, {document['bits']} bits, on {details['device']}: "
        f"{machine['processor']}, threads: {machine['threads']}, "
        f"onnxruntime {machine['onnxruntime']}\n\n{to_report(document, earlier)}"
    )
    document["against"] = None
    if earlier is not None:
        ratios = compare(document, earlier)
        about = {"file": str(arguments.against), "model": earlier.get("model")}
        document["against"] = {**about, "ratios": ratios}
        differences = list_differences(document, earlier)
        if differences:
            console.write_note(f"{arguments.against} is of another run: {', '.join(differences)}")
    if arguments.json:
        console.write_json(document)
    if arguments.chart:
        title = f"{engine.variant.name} on {machine['processor']}"
        write_chart(draw_chart(details, title), arguments.chart)
        console.write_note(f"the chart is in {arguments.chart}")


def _read_numbers(text: str) -> tuple[int, ...]:
    """Reads `1,4,8`.

    Raises:
        UsageError: one of them is no whole number from 1 on.
    """
    read = whole("--parallel", 1)
    return tuple(dict.fromkeys(read(each.strip()) for each in text.split(",") if each.strip()))


def _measure(engine: Engine, plan: "BenchPlan", console: Console) -> dict[str, Any]:
    """Measures program, variant and machine, one after the other."""
    from tinyv_cli.backends.backend import resolve_threads
    from tinyv_cli.benchmark.bandwidth import choose_array_bytes, measure_bandwidth
    from tinyv_cli.benchmark.machine import describe_machine
    from tinyv_cli.benchmark.measure import count_bytes_per_token, measure, measure_start
    from tinyv_cli.benchmark.report import make_bench_document
    from tinyv_cli.machine.memory import read_main_memory

    manifest = engine.variant.manifest

    # A moving bar is drawn by a thread of its own, which would take time from what is timed.
    def note(what: str) -> None:
        console.write_note(f"measuring {engine.variant.name}: {what}")

    threads = resolve_threads(engine.options.threads)
    start_s = measure_start(plan.repeats)
    try:
        measured = measure(engine, plan, note)
    except InputError as error:
        hint = "give it more room: `tinyv bench --ctx-size 512`"
        raise InputError(error.problem, hint) from error
    note("memory")
    array_bytes = choose_array_bytes(read_main_memory().available_bytes)
    read_gb_s = measure_bandwidth(threads, array_bytes)
    device = engine.options.device
    if is_cuda(device):
        console.write_note("memory and its speed are the computer's, not the GPU's")
    n_bytes = {
        depth: count_bytes_per_token(manifest, depth, to_kind(device))
        for depth in measured.decode_tok_s
    }
    kind = to_kind(device)
    step_bytes = {
        n: count_bytes_per_token(manifest, n * plan.parallel_depth, kind) for n in plan.parallel
    }
    figures = make_bench_document(measured, start_s, read_gb_s, n_bytes, step_bytes)
    figures["details"]["read_array_bytes"] = array_bytes
    about = {"model": engine.variant.name, "bits": manifest.bits}
    return {**about, **figures, "machine": describe_machine(threads)}

"""A benchmark's files and a variant, or answers from elsewhere, become scores by each rule.

Answers are kept uncut as they come, so that the same command goes on where it was stopped, and a
rule that is new asks nothing again.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyv_cli.benchmark.chart import check_chart, write_chart
from tinyv_cli.commands.eval.planning import IS_KEPT, clear_if_fresh, note_done, plan_positions
from tinyv_cli.console import Console
from tinyv_cli.devices.names import to_kind
from tinyv_cli.engine import Engine, find_variant
from tinyv_cli.errors import InputError, PartlyFailedError, UsageError
from tinyv_cli.evaluation.ledger import Ledger, Uncut, make_key, resolve_ledger
from tinyv_cli.evaluation.published.benchmarks import (
    BENCHMARKS,
    END_MARK,
    MAX_NEW_TOKENS,
    Benchmark,
)
from tinyv_cli.evaluation.published.chart import draw_scores
from tinyv_cli.evaluation.published.given import read_given
from tinyv_cli.evaluation.published.loaders.loading import Loaded, load_benchmark, take_sample
from tinyv_cli.evaluation.published.records import Given, Record
from tinyv_cli.evaluation.published.report import Scored, describe_scores, to_score_tables
from tinyv_cli.evaluation.published.rules.scores import score_all, score_nothing
from tinyv_cli.options.report import DEFAULT_MAX_TOKENS, EvalArguments
from tinyv_cli.prompts.prompt import make_prompt

_N_SHOWN = 5  # lines about what is missing; `--json` has all of them


@dataclass(frozen=True)
class _Answered:
    """What was answered, and why other records were not, by index; and by which variant."""

    given: Mapping[int, Given]
    failures: Mapping[int, str] = field(default_factory=dict)
    model: str | None = None
    is_toy: bool = False


def evaluate_benchmark(arguments: EvalArguments, name: str) -> None:
    """Runs `tinyv eval PATH --benchmark NAME`.

    Raises:
        UsageError: there is no such benchmark, or options do not go together.
        InputError: the files or the answers cannot be used.
        WeightsError: there is no such variant, or it is damaged.
        DeviceError: the device cannot run it, or answers can be kept nowhere.
        PartlyFailedError: at the end, when some records could not be asked.
        KeyboardInterrupt: Ctrl-C; what was answered is kept.
    """
    started = time.perf_counter()
    console = Console(quiet=arguments.quiet)
    _check_options(arguments, name)
    benchmark = BENCHMARKS[name]
    loaded = load_benchmark(name, arguments.questions)
    records: Sequence[Record] = loaded.records[: arguments.limit]
    if arguments.sample is not None:
        records = take_sample(loaded.records, arguments.sample, arguments.seed or 0)
    _note_records(arguments, loaded, records, console)
    if arguments.answers is not None:
        given = read_given(arguments.answers, benchmark, loaded.records)
        answered = _Answered(given)
    else:
        answered = _ask(arguments, benchmark, loaded, records, console)
    answers = [(r, answered.given[r.index]) for r in records if r.index in answered.given]
    without = [record.index for record in records if record.index not in answered.given]
    _note_some(f"of {len(records)} records have no answer", list(map(str, without)), console)
    if not answers:
        why = "".join(f": {each}" for each in [*answered.failures.values()][:1])
        problem = f"none of these {len(records)} records of {name} has an answer{why}"
        raise InputError(problem, "put that right, or name other records")
    counted = [record for record, _ in answers]
    scored = Scored(benchmark, counted, score_all(name, answers), score_nothing(name, counted))
    if arguments.json:
        document = {
            "benchmark": name,
            "files": list(map(str, loaded.files)),
            "questions": len(answers),
            "of": len(loaded.records),
            "rules": describe_scores(scored),
            "without_answer": without,
            "failures": list(answered.failures.values()),
            "left_out": list(loaded.left_out),
            "model": answered.model,
            "toy": answered.is_toy,
            "seconds": time.perf_counter() - started,
        }
        console.write_json(document)
    else:
        console.write_line(to_score_tables(scored))
    if arguments.chart is not None:
        write_chart(draw_scores(scored), arguments.chart)
    if answered.failures:
        n, first = len(answered.failures), next(iter(answered.failures.values()))
        problem = f"{n} of {len(records)} records could not be asked; the first: {first}"
        hint = "when that is put right, the same command asks them alone; `--json` names all"
        raise PartlyFailedError(problem, hint)


def _check_options(arguments: EvalArguments, name: str) -> None:
    """Refuses what does not exist, and what a benchmark's own rules decide."""
    if name not in BENCHMARKS:
        raise UsageError(f"there is no benchmark '{name}'", f"use one of {', '.join(BENCHMARKS)}")
    if arguments.limit is not None and arguments.sample is not None:
        raise UsageError("--limit and --sample do not go together", "use one of them")
    if arguments.seed is not None and arguments.sample is None:
        raise UsageError("--seed draws the records of --sample", "add `--sample N`")
    fixed = {
        "--template": arguments.template is not None,
        "--against": arguments.against is not None,
        "--max-tokens": arguments.max_tokens != DEFAULT_MAX_TOKENS,
    }
    for flag, is_given in fixed.items():
        if is_given:
            hint = "leave it away: prompts, lengths and rules of a benchmark are fixed"
            raise UsageError(f"{flag} does not go with --benchmark", hint)
    if arguments.chart is not None:
        check_chart(arguments.chart, replaces=arguments.force)


def _note_records(
    arguments: EvalArguments, loaded: Loaded, records: Sequence[Record], console: Console
) -> None:
    """Says where the records are from, which of them count, and what is missing."""
    n, n_all = len(records), len(loaded.records)
    others = f" and {len(loaded.files) - 1} more" if len(loaded.files) > 1 else ""
    console.write_note(f"{n_all} questions are in {loaded.files[0]}{others}")
    if arguments.sample is not None:
        console.write_note(f"{n} of them are drawn by chance, seed {arguments.seed or 0}")
    elif n < n_all:
        console.write_note(
            f"the first {n} are no sample, such files are sorted; `--sample {n}` draws by chance"
        )
    if loaded.note:
        console.write_note(loaded.note)
    missing = [f"{r.picture.problem} (record {r.index})" for r in records if r.picture.problem]
    _note_some(f"of {n} records lack their picture", missing, console)
    _note_some(f"of {n_all} records are left out", loaded.left_out, console)


def _note_some(what: str, lines: Sequence[str], console: Console) -> None:
    """Counts lines, and writes the first of them."""
    if lines:
        more = ", …" if lines[_N_SHOWN:] else ""
        console.write_note(f"{len(lines)} {what}: {', '.join(lines[:_N_SHOWN])}{more}")


def _ask(
    arguments: EvalArguments,
    benchmark: Benchmark,
    loaded: Loaded,
    records: Sequence[Record],
    console: Console,
) -> _Answered:
    """Asks a variant what its ledger does not hold.

    Args:
        arguments: as typed.
        benchmark: which one.
        loaded: all of it.
        records: those that are to be asked.
        console: takes notes.
    """
    from tinyv_cli.evaluation.published.asking import ask_records

    engine, ledger = _plan(arguments, benchmark, loaded, records, console)
    name = engine.variant.name
    n_done = sum(each.index in ledger.entries for each in records)
    note_done(name, n_done, len(records), console)
    try:
        failures = ask_records(engine, benchmark, records, ledger, console.progress)
    except KeyboardInterrupt:
        console.write_note(IS_KEPT)
        raise
    console.write_note(f"the answers of {name} are in {ledger.path}")
    given = {index: Given(each.answer, each.losses) for index, each in ledger.entries.items()}
    return _Answered(given, failures, name, engine.is_toy)


def _plan(
    arguments: EvalArguments,
    benchmark: Benchmark,
    loaded: Loaded,
    records: Sequence[Record],
    console: Console,
) -> tuple[Engine, Ledger[Uncut]]:
    """Plans the variant for the longest record, and opens the ledger of its answers."""
    found = find_variant(arguments.model)
    longest = 0
    for record in records:
        prompt = make_prompt(benchmark.template, (), benchmark.write_prompt(record.question)).text
        ends = [len((text + END_MARK).encode()) for text in record.candidates]
        longest = max(longest, len(prompt.encode()) + max(MAX_NEW_TOKENS, *ends, 0))
    engine = plan_positions(arguments, found, longest, console)
    asked = [(each.question, each.candidates) for each in loaded.records]
    key = make_key(
        repr((benchmark.name, benchmark.prompt, benchmark.template, MAX_NEW_TOKENS, END_MARK)),
        hashlib.sha256(repr(asked).encode()).hexdigest(),
        engine.variant.manifest.to_json(),
        str(arguments.context_length),
        to_kind(engine.options.device),
    )
    place = loaded.files[0].with_name(f"{benchmark.name}.json")  # whose stem names the ledger
    n_indices = 1 + max(each.index for each in loaded.records)
    ledger = Ledger(resolve_ledger(place, key), Uncut, n_indices)
    return engine, clear_if_fresh(arguments, ledger)

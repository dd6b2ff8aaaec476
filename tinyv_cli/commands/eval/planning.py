"""What both kinds of `tinyv eval` do before and after they ask."""

from tinyv_cli.console import Console
from tinyv_cli.engine import Demand, Engine, FoundVariant, plan_engine
from tinyv_cli.evaluation.ledger import E, Ledger
from tinyv_cli.options.report import EvalArguments
from tinyv_cli.options.shared import to_backend_options

IS_KEPT = "what was answered is kept; the same command goes on from there"


def plan_positions(
    arguments: EvalArguments, found: FoundVariant, n_bytes: int, console: Console
) -> Engine:
    """Plans a variant; both sides stay open from picture to picture.

    Args:
        arguments: as typed.
        found: the variant.
        n_bytes: of the longest prompt and its answer together.
        console: takes notes.
    """
    n_positions = n_bytes + found.variant.manifest.spec.qformer.n_queries
    demand = Demand(n_positions, n_slots=arguments.parallel)
    wanted = to_backend_options(arguments)
    return plan_engine(found, wanted, demand, console.write_note, console.progress)


def clear_if_fresh(arguments: EvalArguments, ledger: Ledger[E]) -> Ledger[E]:
    """Returns a ledger, emptied where `--fresh` asks for it."""
    if arguments.fresh:
        ledger.clear()
    return ledger


def note_done(name: str, n_done: int, n_questions: int, console: Console) -> None:
    """Says how much a variant has answered before."""
    if n_done:
        done = f"{name} has answered {n_done} of {n_questions} questions before"
        console.write_note(f"{done}; `--fresh` starts again")

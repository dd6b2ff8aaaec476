"""A command line becomes a verb that runs, and a failure an exit code.

Each verb's module is loaded when the verb runs, so that `tinyv --help` loads none of them.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tinyv_cli.console import Console, abandon_stdout
from tinyv_cli.disk.writing import to_planned
from tinyv_cli.errors import ExitCode
from tinyv_cli.options.ask import AskArguments
from tinyv_cli.options.batch import BatchArguments
from tinyv_cli.options.chat import ChatArguments
from tinyv_cli.options.declare import takes
from tinyv_cli.options.export import ExportArguments
from tinyv_cli.options.guidance.pages import Verb, measure_page
from tinyv_cli.options.guidance.usage import (
    CommandLineError,
    Verbs,
    to_own_words,
    to_usage_error,
)
from tinyv_cli.options.pull import PullArguments, PushArguments, RemoveArguments
from tinyv_cli.options.quantize import QuantizeArguments
from tinyv_cli.options.report import (
    BenchArguments,
    DoctorArguments,
    EvalArguments,
    ListArguments,
    ShowArguments,
)
from tinyv_cli.options.serve import ServeArguments

NOTES = """`tinyv VERB --help` shows a verb's options. Each can be set by a variable too:
--max-tokens by TINYV_MAX_TOKENS. A flag wins. TINYV_IMAGE separates several pictures as PATH does,
or by lines; TINYV_STOP several texts by lines. Variants lie in the folder that TINYV_HOME names, or
where your system keeps such data. Where there is none yet, the miniature that comes with tinyv
answers.

Exit codes: 0 ok, 1 a bug, 2 usage, 3 picture or question, 4 weights, 5 device or memory, 6 a batch
with failures, 130 Ctrl-C.
"""

SOURCES = """The folder of sources holds:

\b
  phi-2/
    config, tokenizer, weights; hub:
    microsoft/phi-2, susnato/phi-2
  eva_vit_g.pth
    the picture encoder (LAVIS)
  blip2_pretrained_flant5xxl.pth
    the Q-Former (LAVIS)
  TinyGPT-V_for_Stage4.pth
    or of stage 1, 2, 3; hub:
    Tyrannosaurus/TinyGPT-V

`tinyv pull` fetches them. Without --sources: those in sources/ where tinyv keeps its files
(TINYV_HOME), and where none are there, those of the miniature that comes with tinyv.
"""

_COMPLETE = "_TINYV_COMPLETE"  # as the scripts of `--install-completion` set it

_ASKING, _VARIANTS, _MEASURING = "Ask", "Variants", "Measure"

app = typer.Typer(
    cls=Verbs,
    epilog=NOTES,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line, and returns how it went.

    A `TinyvError` ends here as two lines on stderr. An unplanned exception is let through with its
    traceback, which ends the interpreter with exit code 1.

    Args:
        arguments: the words after `tinyv`; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        abandon_stdout()
        return ExitCode.OK
    except Exception as error:
        failure = to_planned(error)
        if failure is None:
            raise
        Console().write_error(failure)
        return failure.exit_code


def _run(words: list[str]) -> int:
    """Parses and runs a command line, without typer's own `main`, which would end the process."""
    if _COMPLETE in os.environ:
        app(prog_name="tinyv")  # a shell asks how a line may go on; ends the process
    command = typer.main.get_command(app)
    try:
        with command.make_context(
            "tinyv", to_own_words(words), terminal_width=measure_page()
        ) as context:
            command.invoke(context)
    except CommandLineError as complaint:
        raise to_usage_error(complaint, words) from complaint
    except typer.Exit as leave:
        return leave.exit_code
    return ExitCode.OK


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("-V", "--version", help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask a picture a question: TinyGPT-V on this computer, without a network."""
    if version:
        from importlib import metadata
        from platform import python_version

        from tinyv_cli.devices.driver import read_driver

        runs_on = f"Python {python_version()}, onnxruntime {metadata.version('onnxruntime')}"
        devices = ", ".join(["cpu", *(gpu.name for gpu in read_driver().gpus)])
        Console().write_line(f"tinyv {metadata.version('tinyv')} ({runs_on}; {devices})")
        raise typer.Exit
    if context.invoked_subcommand is None:
        Console().write_report(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command(cls=Verb, rich_help_panel=_ASKING)
@takes(AskArguments)
def ask(arguments: AskArguments) -> None:
    """Answer a question about a picture.

    The answer goes to stdout as it is found, and nothing else does. The prompt is passed on exactly
    as typed; a task tag goes first: [vqa], [caption], [grounding], [detection], [refer] or
    [identify].
    """
    from tinyv_cli.commands.ask import answer_question

    answer_question(arguments)


@app.command(cls=Verb, rich_help_panel=_ASKING)
@takes(ChatArguments)
def chat(arguments: ChatArguments) -> None:
    """Talk about a picture, question after question.

    In a terminal /help lists what else can be typed. Where stdin is no terminal, each of its lines
    is a question, and each answer one line on stdout.
    """
    from tinyv_cli.commands.chat import hold_conversation

    hold_conversation(arguments)


@app.command(cls=Verb, rich_help_panel=_ASKING)
@takes(BatchArguments)
def batch(arguments: BatchArguments) -> None:
    """Ask the same about many pictures, and write a JSON line for each.

    The same command goes on where it was stopped. Exit code 6 where some pictures failed.
    """
    from tinyv_cli.commands.batch import answer_batch

    answer_batch(arguments)


@app.command(cls=Verb, rich_help_panel=_ASKING)
@takes(ServeArguments)
def serve(arguments: ServeArguments) -> None:
    """Answer programs over HTTP, in OpenAI's and Ollama's words, and on a page.

    Only this computer can ask, unless --host says otherwise. A line a request goes to stderr.
    """
    from tinyv_cli.commands.serve import serve_questions

    serve_questions(arguments)


@app.command("list", cls=Verb, rich_help_panel=_VARIANTS)
@takes(ListArguments)
def list_(arguments: ListArguments) -> None:
    """List the variants there are, and which one answers; damaged ones with the reason."""
    from tinyv_cli.commands.variants.list import print_variants

    print_variants(arguments)


@app.command(cls=Verb, rich_help_panel=_VARIANTS)
@takes(ShowArguments)
def show(arguments: ShowArguments) -> None:
    """Show what a variant is: sizes, bits, template, measured errors, sources."""
    from tinyv_cli.commands.variants.show import show_variant

    show_variant(arguments)


@app.command(cls=Verb, rich_help_panel=_VARIANTS)
@takes(PullArguments)
def pull(arguments: PullArguments) -> None:
    """Fetch a variant that is ready, or the public weights, and check every byte.

    With --ready NAME, or a repository, URL or folder, a finished variant comes, which answers as it
    is; alone, the public weights, which `tinyv quantize` makes one of.

    The folder is the one line on stdout; the same command goes on where it was stopped.
    """
    from tinyv_cli.commands.fetching.pull import pull_weights

    pull_weights(arguments)


@app.command(cls=Verb, rich_help_panel=_VARIANTS)
@takes(PushArguments)
def push(arguments: PushArguments) -> None:
    """Copy a variant into a folder that others can pull it from, and check every byte.

    The folder is the one line on stdout. It holds what `tinyv pull FOLDER`, or `tinyv pull URL` of
    a web server or bucket with its files, takes.
    """
    from tinyv_cli.commands.fetching.push import push_variant

    push_variant(arguments)


@app.command(cls=Verb, rich_help_panel=_VARIANTS, epilog=SOURCES)
@takes(QuantizeArguments)
def quantize(arguments: QuantizeArguments) -> None:
    """Make a variant, the files that `ask` runs, from the public weights.

    The new variant's folder is the one line on stdout.
    """
    from tinyv_cli.commands.quantize import quantize_sources

    quantize_sources(arguments)


@app.command(cls=Verb, rich_help_panel=_VARIANTS)
@takes(ExportArguments)
def export(arguments: ExportArguments) -> None:
    """Write the vision side in plain ONNX, for OpenVINO, DirectML, CoreML, TensorRT or a browser.

    From the sources that `tinyv quantize --help` lists. optimum exports it and holds it to torch;
    the new folder is the one line on stdout, and its README.md says how to run it.
    """
    from tinyv_cli.commands.export import export_sources

    export_sources(arguments)


@app.command("rm", cls=Verb, rich_help_panel=_VARIANTS)
@takes(RemoveArguments)
def remove(arguments: RemoveArguments) -> None:
    """Remove variants, and with --sources the public weights, after asking."""
    from tinyv_cli.commands.variants.remove import remove_files

    remove_files(arguments)


@app.command("eval", cls=Verb, rich_help_panel=_MEASURING)
@takes(EvalArguments)
def eval_(arguments: EvalArguments) -> None:
    """Measure how many questions a variant answers rightly, and how far it is from another.

    QUESTIONS is a file with a JSON object a line: picture, task, question, answer. With --benchmark
    it is the folder, the TSV or the parquet file of one of the paper's benchmarks, as published.
    Answers are kept beside it as they come; the same command goes on where it was stopped.
    """
    if arguments.benchmark is not None:
        from tinyv_cli.commands.eval.benchmark import evaluate_benchmark

        evaluate_benchmark(arguments, arguments.benchmark)
    else:
        from tinyv_cli.commands.eval.questions import evaluate_variant

        evaluate_variant(arguments)


@app.command(cls=Verb, rich_help_panel=_MEASURING)
@takes(BenchArguments)
def bench(arguments: BenchArguments) -> None:
    """Measure how fast a variant answers on this machine.

    The table goes to stderr; with --json one document goes to stdout, which a later run compares
    itself with by --against.
    """
    from tinyv_cli.commands.bench import measure_variant

    measure_variant(arguments)


@app.command(cls=Verb, rich_help_panel=_MEASURING)
@takes(DoctorArguments)
def doctor(arguments: DoctorArguments) -> None:
    """Report what this computer can compute on: processor, graphics card, libraries, variants.

    The report goes to stdout. With --device cuda the exit code is 5 where CUDA cannot be used.
    """
    from tinyv_cli.commands.doctor import examine_computer

    examine_computer(arguments)

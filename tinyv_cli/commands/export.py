"""A folder of sources becomes a folder with the vision side in plain ONNX."""

from tinyv_cli.commands.quantize import choose_sources
from tinyv_cli.console import Console
from tinyv_cli.options.export import ExportArguments


def export_sources(arguments: ExportArguments) -> None:
    """Runs `tinyv export`.

    Raises:
        UsageError: there is no such dtype or opset, or the packages for exporting are not
            installed.
        WeightsError: the sources are not what they should be, the folder exists already, or the
            file does not compute what torch does.
        DeviceError: memory or disk do not suffice.
    """
    from quantize.export import request
    from weights.reading.sources import resolve_sources

    console = Console(quiet=arguments.quiet)
    request.check_request(arguments.dtype, arguments.opset)
    sources = choose_sources(arguments.sources, "export", console)
    resolve_sources(sources, arguments.stage)
    request.check_target(arguments.folder.absolute())
    # With these come torch and transformers, seconds for which nothing that is refused above has
    # to wait.
    from quantize.export import pipeline

    options = request.ExportOptions(
        sources=sources,
        output=arguments.folder,
        stage=arguments.stage,
        dtype=arguments.dtype,
        opset=arguments.opset,
    )
    console.write_line(str(pipeline.export_vision(options, console.progress)))

"""The context that was asked for becomes the positions that a cache holds."""

from tinyv_cli.errors import UsageError
from tinyv_cli.spec import LanguageSpec


def resolve_context_length(asked: int | None, spec: LanguageSpec) -> int:
    """Gives the positions asked for, or all that the model knows.

    Raises:
        UsageError: the model does not know as many, or there are none.
    """
    if asked is None:
        return spec.context_length
    if not 0 < asked <= spec.context_length:
        raise UsageError(
            f"a context of {asked} positions does not fit this model",
            f"use `--ctx-size` with 1 to {spec.context_length}",
        )
    return asked

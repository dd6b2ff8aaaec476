"""A context is what was asked for, or what the model has."""

import pytest

from tinyv_cli.backends.backend import resolve_context_length
from tinyv_cli.errors import UsageError
from tinyv_cli.spec import LanguageSpec


def test_a_context_is_the_models_own_or_a_part_of_it():
    spec = LanguageSpec()
    assert [resolve_context_length(asked, spec) for asked in (None, 1, 2048)] == [2048, 1, 2048]


@pytest.mark.parametrize("asked", [0, -1, 2049])
def test_a_context_that_the_model_does_not_have_is_refused(asked):
    with pytest.raises(UsageError, match=f"a context of {asked} positions") as caught:
        resolve_context_length(asked, LanguageSpec())
    assert caught.value.hint == "use `--ctx-size` with 1 to 2048"

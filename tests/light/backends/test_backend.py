"""Threads and context are what was asked for, or what machine and model have."""

import pytest

from tinyv_cli.backends.backend import resolve_context_length, resolve_threads
from tinyv_cli.errors import UsageError
from tinyv_cli.spec import LanguageSpec


def test_threads_are_those_asked_for_then_the_variables_then_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (resolve_threads(5), resolve_threads(None)) == (5, 3)
    monkeypatch.setattr("tinyv_cli.backends.backend.psutil.cpu_count", lambda logical: 1)
    for useless in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        assert resolve_threads(None) == 1


def test_fewer_threads_than_one_are_refused():
    with pytest.raises(UsageError, match="0 threads compute nothing"):
        resolve_threads(0)


def test_a_context_is_the_models_own_or_a_part_of_it():
    spec = LanguageSpec()
    assert [resolve_context_length(asked, spec) for asked in (None, 1, 2048)] == [2048, 1, 2048]


@pytest.mark.parametrize("asked", [0, -1, 2049])
def test_a_context_that_the_model_does_not_have_is_refused(asked):
    with pytest.raises(UsageError, match=f"a context of {asked} positions") as caught:
        resolve_context_length(asked, LanguageSpec())
    assert caught.value.hint == "use `--ctx-size` with 1 to 2048"

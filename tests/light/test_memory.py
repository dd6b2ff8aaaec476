"""Memory is known before it is spent: what needs more than there is, is refused with figures."""

import psutil
import pytest

from tests.light.toy_variant import make_open_backend, make_script
from tinyv_cli import backends
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode
from tinyv_cli.home import resolve_variant
from tinyv_cli.memory import plan_memory


@pytest.fixture
def ask(place, monkeypatch, capsys):
    def ask(*flags):
        monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script("a cat")))
        code = main(["ask", "cat.png", "what?", "-m", "bits4", *flags])
        return code, *capsys.readouterr()

    return ask


def test_a_longer_answer_takes_more_and_weights_are_counted(place):
    variant = resolve_variant("bits4")
    estimates = [
        plan_memory(variant, n, 10**12, encodes=True).needed_bytes for n in (10, 100, 1000)
    ]
    spec = variant.manifest.spec.language
    by_position = 8 * spec.n_layers * spec.width  # keys and values in float32
    assert estimates == sorted(estimates)
    assert estimates[1] - estimates[0] >= 90 * by_position
    assert estimates[0] > 100_000_000  # the program itself


def test_what_does_not_fit_is_refused_before_anything_is_opened(ask, monkeypatch):
    monkeypatch.setattr(backends, "open_backend", None)
    code, out, err = ask("--memory-budget", "90MB")
    assert (code, out) == (ExitCode.DEVICE, "")
    assert "bits4 needs about 0." in err
    assert "0.09 are allowed" in err
    assert "--memory-budget" in err.splitlines()[1]


def test_without_a_budget_free_memory_is_the_limit(ask, monkeypatch):
    free = psutil.virtual_memory()._replace(available=50_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    code, _, err = ask()
    assert code == ExitCode.DEVICE
    assert "0.05 are free" in err
    assert ask("--memory-budget", "6GB")[:2] == (ExitCode.OK, "a cat\n")


@pytest.mark.parametrize("size", ["900mb", "0.9 GB", "900000000", "900000KB", "860MiB", "0.85gib"])
def test_sizes_are_read_as_people_write_them(size, ask):
    assert ask("--memory-budget", size)[0] == ExitCode.OK


@pytest.mark.parametrize("size", ["", "much", "-1GB", "0", "1XB", "GB"])
def test_what_is_no_size_is_said_so(size, ask):
    code, _, err = ask("--memory-budget", size)
    assert code == ExitCode.USAGE
    assert "6GB or 900MiB" in err


def test_stats_show_the_estimate_beside_the_peak(ask):
    code, _, err = ask("--stats")
    assert code == ExitCode.OK
    (line,) = [line for line in err.splitlines() if line.startswith("memory")]
    peak, estimate = float(line.split()[1]), float(line.split()[3])
    assert peak > 0.02
    planned = plan_memory(resolve_variant("bits4"), 300, None, encodes=True)
    assert estimate == pytest.approx(planned.needed_bytes / 1e9, abs=0.02)

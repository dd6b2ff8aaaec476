import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.light.evaluation.toy_evaluation import EchoDecoder
from tests.light.toy_decoder import ToyEncoder, ToySlots
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.benchmark import bandwidth, report
from tinyv_cli.benchmark.chart import draw_chart, write_chart
from tinyv_cli.benchmark.measure import count_bytes_per_token
from tinyv_cli.errors import DeviceError, ExitCode, InputError
from tinyv_cli.variants import home

HEADLINE = {
    "load_s",
    "encode_s",
    "prefill_tok_s",
    "decode_tok_s",
    "first_token_s",
    "peak_rss_bytes",
    "bytes_per_token",
    "achieved_gb_s",
    "read_gb_s",
}
SPREADS = ("start_s", "load_s", "first_encode_s", "encode_s", "first_token_s", "total_s")
SMALL_ARRAY_BYTES = 80_000


@pytest.fixture
def small(monkeypatch):
    """Little memory is read."""
    monkeypatch.setattr(bandwidth, "choose_array_bytes", lambda _: SMALL_ARRAY_BYTES)


@pytest.fixture
def toy(place, small, monkeypatch):
    """Variants whose decoder has as much room as is asked for."""
    seen = SimpleNamespace(options=[], opened=[])

    def open_backend(variant, options, *_):
        decoder = EchoDecoder(variant.manifest.bits)
        decoder.context_length = options.context_length or 2048
        seen.options.append(options)
        seen.opened.append(variant.name)
        return Backend(ToyEncoder(), ToySlots(decoder), "toy", 0.1 * len(seen.opened))

    monkeypatch.setattr(backends, "open_backend", open_backend)
    return seen


def run(capsys, *flags):
    """The document that the command prints, and what it says beside it."""
    assert main(["bench", "-m", "bits4", "--json", *flags]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return json.loads(out), err


def test_the_document_has_the_figures_and_their_details(toy, capsys):
    document, err = run(capsys)
    assert set(document) == HEADLINE | {
        "model",
        "bits",
        "details",
        "machine",
        "against",
        "seconds",
    }
    assert document["against"] is None
    assert (document["model"], document["bits"]) == ("bits4", 4)
    details = document["details"]
    assert list(details["prefill_tok_s"]) == ["32", "128", "512"]
    assert list(details["decode_tok_s"]) == ["64", "512", "1024"]
    rates = [*details["prefill_tok_s"].values(), *details["decode_tok_s"].values()]
    for spread in [*(details[name] for name in SPREADS), details["read_gb_s"], *rates]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert [details[name]["repeats"] for name in SPREADS] == [3] * 6
    assert len(details["answer_tokens"]) == 3
    assert all(0 <= n <= 32 for n in details["answer_tokens"])
    assert document["machine"]["threads"] >= 1
    assert document["machine"]["processor"]
    assert toy.opened == ["bits4"] * 3
    assert "measuring bits4: decoding" in err


def test_the_headline_is_taken_from_the_details(toy, capsys):
    document, _ = run(capsys)
    details = document["details"]
    for name in ("load_s", "encode_s", "first_token_s"):
        assert document[name] == details[name]["median"]
    assert document["load_s"] == pytest.approx(0.2)
    assert document["prefill_tok_s"] == details["prefill_tok_s"]["128"]["median"]
    assert document["decode_tok_s"] == details["decode_tok_s"]["64"]["median"]
    assert document["read_gb_s"] == details["read_gb_s"]["max"]
    read_bytes_s = document["bytes_per_token"] * document["decode_tok_s"]
    assert document["achieved_gb_s"] == pytest.approx(read_bytes_s / 1e9)
    share = document["achieved_gb_s"] / document["read_gb_s"]
    assert details["achieved_share"] == pytest.approx(share)
    variant = home.resolve_variant("bits4")
    assert document["bytes_per_token"] == count_bytes_per_token(variant.manifest, 64)


def test_the_table_is_on_stderr_and_stdout_stays_empty_without_json(toy, capsys):
    assert main(["bench", "-m", "bits4"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    for label in ("start (s)", "prompt of 512 (tokens/s)", "decoding at 1024 (tokens/s)"):
        assert f"\n{label} " in err
    assert "\nbits4, 4 bits, on toy: " in err
    assert "then" not in err


def test_quiet_leaves_the_document_alone(toy, capsys):
    document, err = run(capsys, "-q")
    assert set(document) >= HEADLINE
    assert err == ""


def test_lengths_and_depths_that_do_not_fit_are_left_out(toy, capsys):
    document, _ = run(capsys, "-c", "527")
    assert list(document["details"]["prefill_tok_s"]) == ["32", "128", "512"]
    assert list(document["details"]["decode_tok_s"]) == ["64"]
    document, _ = run(capsys, "-c", "528")
    assert list(document["details"]["decode_tok_s"]) == ["64", "512"]
    document, _ = run(capsys, "-c", "127")
    details = document["details"]
    assert list(details["prefill_tok_s"]) == ["32"]
    assert (details["prefill_length"], details["context_length"]) == (32, 127)
    assert document["prefill_tok_s"] == details["prefill_tok_s"]["32"]["median"]


def test_a_context_that_the_question_does_not_fit_is_told(toy, capsys):
    assert main(["bench", "-m", "bits4", "--json", "-c", "20"]) == ExitCode.INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert "positions, the context has 20" in err
    assert "`tinyv bench --ctx-size 512`" in err


def test_options_reach_backend_and_plan(toy, capsys):
    document, _ = run(capsys, "--repeats", "2", "-t", "1", "--device", "cpu")
    assert document["details"]["load_s"]["repeats"] == 2
    assert document["details"]["decode_tok_s"]["512"]["repeats"] == 2
    assert document["machine"]["threads"] == 1
    assert [(each.device, each.threads) for each in toy.options] == [("cpu", 1)] * 2
    assert main(["bench", "--repeats", "0"]) == ExitCode.USAGE
    assert "'0' is no value for --repeats" in capsys.readouterr().err


def write_earlier(document, **changes):
    path = Path("before.json")
    path.write_text(json.dumps(document | changes), "utf-8")
    return str(path)


def test_an_earlier_run_is_compared_with(toy, capsys):
    earlier, _ = run(capsys, "-q")
    halved = {name: earlier[name] / 2 for name in HEADLINE - {"peak_rss_bytes", "bytes_per_token"}}
    machine_then = earlier["machine"] | {"threads": 64}
    path = write_earlier(earlier, **halved, model="other", machine=machine_then)
    document, err = run(capsys, "--against", path)
    against = document["against"]
    assert (against["file"], against["model"]) == ("before.json", "other")
    assert set(against["ratios"]) == HEADLINE
    assert against["ratios"]["load_s"] == pytest.approx(document["load_s"] / halved["load_s"])
    assert against["ratios"]["bytes_per_token"] == 1
    assert "now/then  better" in err
    assert "before.json is of another run: model other, threads 64" in err
    row = next(line for line in err.splitlines() if line.startswith("read for a token"))
    assert row.split()[-2:] == ["1.00", "same"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read before.json"),
        (b"\xff", "before.json is no document of `tinyv bench`: it is not UTF-8"),
        (b"", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"tasks": {}}', "load_s is missing"),
        ("text", "load_s is not a number"),
        (-1, "load_s is -1"),
        (0, "load_s is 0"),
    ],
)
def test_a_file_that_is_no_earlier_run_is_refused_before_measuring(toy, capsys, content, problem):
    if isinstance(content, bytes):
        Path("before.json").write_bytes(content)
    elif content is not None:
        write_earlier(dict.fromkeys(HEADLINE, 1), load_s=content)
    assert main(["bench", "-m", "bits4", "--json", "--against", "before.json"]) == ExitCode.INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert problem in err
    assert "hint:  keep one with `tinyv bench --json > FILE`" in err
    assert toy.opened == []


def test_ratios_tell_which_run_is_better():
    spreads = {"load_s": {"median": 1.0, "min": 0.9, "max": 1.2, "repeats": 3}}
    now = make_figures(load_s=1.0, decode_tok_s=10.0, first_token_s=1.0, details=spreads)
    for then, expected in ((2.0, "now"), (0.5, "then"), (1.1, "same")):
        rows = to_rows(now, make_figures(load_s=then))
        assert rows["load (s)"][-1] == expected
        assert rows["load (s)"][-2] == f"{1 / then:.2f}"
    # Without a spread the ratio alone decides, and more of a rate is better.
    rows = to_rows(now, make_figures(first_token_s=1.004, achieved_gb_s=0.5, peak_rss_bytes=None))
    assert rows["first token (s)"][-1] == "same"
    assert rows["read when decoding (GB/s)"][-2:] == ["2.00", "now"]
    assert rows["peak memory"][-3:] == ["-", "-", "-"]
    assert rows["decoding at 64 (tokens/s)"][-2:] == ["-", "-"]  # the earlier one has no details


def make_figures(details=None, **changes):
    more = {"achieved_share": 0.5, "answer_tokens": [1], "read_array_bytes": 1}
    rates = ("prefill_tok_s", "decode_tok_s", "parallel_tok_s", "parallel_share")
    more |= {name: {} for name in rates}
    if details is not None:
        one = {"median": 10.0, "min": 9.0, "max": 11.0, "repeats": 1}
        more |= {**details, "decode_tok_s": {"64": one}}
        return dict.fromkeys(HEADLINE, 1) | changes | {"details": more}
    return dict.fromkeys(HEADLINE, 1) | changes


def to_rows(now, then):
    lines = report.to_report(now, then).splitlines()
    starts = {line.split("  ")[0]: line for line in lines}
    return {label: line.removeprefix(label).split() for label, line in starts.items()}


def test_the_chart_is_a_png(toy, capsys):
    _, err = run(capsys, "--chart", "rates.png")
    assert "the chart is in rates.png" in err
    with Image.open("rates.png") as chart:
        assert chart.format == "PNG"
        assert chart.width > 400


@pytest.mark.parametrize(
    ("name", "problem"),
    [("rates.svg", "rates.svg is not called after a PNG"), ("no/rates.png", "there is no folder")],
)
def test_a_chart_that_cannot_be_is_refused_before_measuring(toy, capsys, name, problem):
    assert main(["bench", "-m", "bits4", "--chart", name]) == ExitCode.USAGE
    assert problem in capsys.readouterr().err
    assert toy.opened == []


def test_a_disk_that_fills_up_leaves_the_chart_of_before(tmp_path, monkeypatch):
    # The fault: a chart was written in place, so that half of it took the earlier one's (issue 14).
    def fill_up(chart, file, kind):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "rates.png").write_bytes(b"earlier")
    monkeypatch.setattr(Image.Image, "save", fill_up)
    with pytest.raises(DeviceError, match=r"rates\.png: no space left on device"):
        write_chart(Image.new("RGB", (8, 8)), tmp_path / "rates.png")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"earlier"]


def test_a_chart_that_cannot_be_written_leaves_the_document(toy, capsys):
    Path("rates.png").mkdir()
    command = ["bench", "-m", "bits4", "--json", "--chart", "rates.png"]
    assert main(command) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    assert set(json.loads(out)) >= HEADLINE
    assert "error: cannot write rates.png: is a directory" in err


def test_higher_rates_are_drawn_higher_and_deeper_ones_further_right():
    def to_spread(rate):
        return {"median": rate, "min": rate, "max": rate, "repeats": 1}

    rates = {"64": to_spread(20.0), "1024": to_spread(10.0)}
    chart = draw_chart({"decode_tok_s": rates, "prefill_tok_s": rates}, "toy")
    drawn = np.all(np.asarray(chart) == (0x1F, 0x4E, 0x79), axis=-1)
    for panel in np.hsplit(drawn, 2):
        rows, columns = np.nonzero(panel)
        left, right = rows[columns < columns.min() + 5], rows[columns > columns.max() - 5]
        assert left.mean() < right.mean() - 50


def test_ctrl_c_ends_with_130_and_no_document(toy, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(EchoDecoder, "extend", interrupt)
    assert main(["bench", "-m", "bits4", "--json"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().out == ""


def test_help_names_the_verb_with_an_example(capsys):
    assert main(["--help"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\n  bench " in out
    assert "\n  tinyv bench" in out.replace("\n    ", "\n  ")


def test_a_headline_of_an_earlier_run_may_lack_the_peak(tmp_path):
    path = tmp_path / "before.json"
    path.write_text(json.dumps(dict.fromkeys(HEADLINE, 2) | {"peak_rss_bytes": None}))
    earlier = report.read_earlier(path)
    assert report.compare(dict.fromkeys(HEADLINE, 1), earlier)["peak_rss_bytes"] is None
    path.write_text(json.dumps(dict.fromkeys(HEADLINE, 2) | {"read_gb_s": float("inf")}))
    with pytest.raises(InputError, match="Infinity is not a number"):
        report.read_earlier(path)

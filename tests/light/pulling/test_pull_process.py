"""Pulls in processes of their own: killed, interrupted, and two at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.light.pulling.hub_server import Fault
from tests.light.pulling.toy_hub import check_complete
from tinyv_cli.disk import places

PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.options.pull import PullArguments
from weights.pulling.catalog import read_catalog
pull_weights(PullArguments(), read_catalog(Path(sys.argv[1])))
assert not {"torch", "transformers", "onnxruntime", "safetensors"} & set(sys.modules)
"""


def start(hub, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.catalog_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_or_ctrl_c_the_next_pull_goes_on_without_torch(hub, tmp_path, sent):
    hub.server.faults["pytorch_model.bin"] = Fault(slow_s=0.5)
    first = start(hub, tmp_path)
    wait_for(lambda: hub.server.sent_bytes["pytorch_model.bin"] >= 131_072, first)
    time.sleep(0.2)
    first.send_signal(sent)
    first.communicate(timeout=10)
    [part] = (places.sources_dir() / "phi-2").glob("*.part")
    had = part.stat().st_size
    assert 0 < had < 400_000
    hub.server.faults.clear()
    hub.server.log.clear()
    second = start(hub, tmp_path)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 0, err
    assert out == f"{places.sources_dir()}\n"
    asked = [(p.rpartition("/")[2], r) for m, p, r in hub.server.log if m == "GET"]
    assert asked == [("pytorch_model.bin", f"bytes={had}-")]
    check_complete(hub)


def test_two_at_once_both_end_well_and_fetch_each_file_once(hub, tmp_path):
    hub.server.faults["pytorch_model.bin"] = Fault(slow_s=0.2)
    both = [start(hub, tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    check_complete(hub)
    assert hub.server.count("GET", "pytorch_model.bin") == 1
    assert sum("waiting for it" in err for _, err in ended) == 1


def wait_for(condition, process):
    end_s = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_the_hubs_library_is_whole_in_a_process_that_fetches_a_url_first():
    # huggingface_hub 2.4.0 loads its `constants` only where they are imported by name: the first
    # pull from a URL ended with a traceback, unless something else had imported them.
    code = "from weights.pulling.hub import is_offline; print(is_offline())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")

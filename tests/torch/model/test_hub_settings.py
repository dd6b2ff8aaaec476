"""transformers imports huggingface_hub, which reads the environment at that moment."""

import os
import subprocess
import sys


def test_settings_of_the_hub_that_cannot_be_used_stop_no_network_of_this_computer():
    unusable = {"HF_HUB_DOWNLOAD_TIMEOUT": "abc", "HF_ENDPOINT": "https://hub:abc"}
    done = subprocess.run(
        [sys.executable, "-c", "import tinyv_cli.model.tinygptv"],
        env={**os.environ, **unusable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

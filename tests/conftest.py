"""What a developer has set for the network is not seen by any test."""

import os
import re

# Before anything is imported: huggingface_hub reads its variables when it is.
_OF_THE_NETWORK = re.compile(r"(HF|HUGGING_?FACE)_.*|.*_PROXY|SSL_CERT_(FILE|DIR)|SSLKEYLOGFILE")

for _name in [each for each in os.environ if _OF_THE_NETWORK.fullmatch(each.upper())]:
    del os.environ[_name]

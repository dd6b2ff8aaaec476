"""onnxruntime, imported so that it keeps no device id and calls nobody; all code imports it here.

From 1.29 on its first import writes an id and a queue of events under the user's cache folder, and
ten seconds later looks up its maker's collector, unless the variable is set by then. Its own
`disable_telemetry_events()` comes too late. Who sets the variable before decides instead.

Source: Privacy.md of onnxruntime 1.32, "Disabling Telemetry"; pull request 27379.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]

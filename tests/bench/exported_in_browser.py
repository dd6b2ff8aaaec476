"""The exported vision side in a browser: onnxruntime-web's image tokens beside the desktop's.

    npm install --prefix web onnxruntime-web
    tinyv export -o build/vision
    python -m tests.bench.exported_in_browser build/vision web/node_modules/onnxruntime-web/dist

Needs `pip install '.[clients]'` and Debian's chromium. One JSON line is printed.
"""

import argparse
import json
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from tests.demo import DEMO
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.pictures.image import read_picture, to_pixels

RUN = """async shape => {
  const ort = await import('/dist/ort.min.mjs');
  ort.env.wasm.wasmPaths = '/dist/';
  ort.env.wasm.numThreads = 1;
  const pixels = new Float32Array(await (await fetch('/pixels')).arrayBuffer());
  const start = performance.now();
  const session = await ort.InferenceSession.create('/vision.onnx', {executionProviders: ['wasm']});
  const opened = performance.now();
  const found = await session.run({pixel_values: new ort.Tensor('float32', pixels, shape)});
  return {
    tokens: Array.from(found.image_tokens.data),
    open_s: (opened - start) / 1000,
    run_s: (performance.now() - opened) / 1000,
    version: ort.env.versions.web,
  };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path)
    parser.add_argument("dist", type=Path, help="of the package onnxruntime-web")
    chosen = parser.parse_args()
    model = chosen.exported / "vision.onnx"
    about = json.loads((chosen.exported / "vision.json").read_text("utf-8"))["pixel_values"]
    pictures = sorted((DEMO / "examples").glob("*.png"))
    pixels = np.concatenate([to_pixels(read_picture(p), about["shape"][-1]) for p in pictures])
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"pixel_values": pixels})[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(chosen.dist, place / "dist")
        shutil.copy(model, place)
        (place / "pixels").write_bytes(pixels.tobytes())
        (place / "index.html").write_text("<!doctype html><title>tokens</title>", "utf-8")
        handler = partial(SimpleHTTPRequestHandler, directory=place)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as play:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = play.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            said = page.evaluate(RUN, list(pixels.shape))
            browser_version = browser.version
            browser.close()
            server.shutdown()
    tokens = np.array(said.pop("tokens"), np.float32).reshape(expected.shape)
    error = float(np.linalg.norm(tokens - expected) / np.linalg.norm(expected))
    said |= {"pictures": len(pictures), "relative_error": error, "chromium": browser_version}
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    main()

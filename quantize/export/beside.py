"""What another runtime's user has to know beside the graph: `vision.json` and a page of its use."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from quantize.export.onnx_file import BATCH, INPUT, OUTPUT
from quantize.export.request import ExportOptions
from tinyv_cli.pictures.image import CLIP_MEAN, CLIP_STD
from tinyv_cli.prompts.prompt import TEMPLATES, default_template
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.miniature import is_miniature_folder
from weights.reading.sources import write_json

PAGE = """# The vision side of TinyGPT-V in plain ONNX

`vision.onnx`, with `vision.onnx_data` beside it where there is one, turns pixels into the image
tokens that Phi-2 reads between `<Img>` and `</Img>`. `vision.json` has shapes, sizes and template.
It has operators of ONNX alone; a batch may be of any size. With OpenVINO (`pip install openvino`):

```python
import json, numpy as np, openvino, pathlib, PIL.Image
about = json.loads(pathlib.Path("vision.json").read_text())["pixel_values"]
picture = PIL.Image.open("cat.jpg").convert("RGB").resize(about["shape"][2:], PIL.Image.BICUBIC)
pixels = (np.asarray(picture) / 255 - about["mean"]) / about["deviation"]
pixels = pixels.transpose(2, 0, 1)[None].astype(about["dtype"])
precise = {"EXECUTION_MODE_HINT": "ACCURACY"}  # 16 bits else, where the processor has them
image_tokens = openvino.Core().compile_model("vision.onnx", config=precise)(pixels)[0]
```

With onnxruntime the last line is `onnxruntime.InferenceSession("vision.onnx").run(None,
{"pixel_values": pixels})[0]`, on DirectML, CoreML or TensorRT with their `providers=[...]`.
"""
_MAKERS = ("tinyv", "optimum", "optimum-onnx", "transformers", "torch")


def write_beside(folder: Path, spec: ModelSpec, options: ExportOptions) -> None:
    """Writes `vision.json` and `README.md` into a folder.

    Args:
        folder: with the graph.
        spec: the model's numbers.
        options: that it was made with.
    """
    side, qformer = spec.vision.image_px, spec.qformer
    template = TEMPLATES[default_template(spec.stage)]
    about = {
        INPUT: {
            "shape": [BATCH, 3, side, side],
            "dtype": options.dtype,
            "colours": "RGB from 0 to 1, less the mean, divided by the deviation",
            "resize": "to the whole square, bicubic, whatever the picture's proportions",
            "mean": CLIP_MEAN.tolist(),
            "deviation": CLIP_STD.tolist(),
        },
        OUTPUT: {
            "shape": [BATCH, qformer.n_queries, spec.language.width],
            "dtype": options.dtype,
        },
        "template": asdict(template) | {"before_picture": "<Img>", "after_picture": "</Img> "},
        "stage": spec.stage,
        "opset": options.opset,
        "made_by": {name: version(name) for name in _MAKERS},
        "toy": is_miniature_folder(options.sources),
    }
    write_json(folder / "vision.json", about)
    (folder / "README.md").write_text(PAGE, "utf-8")

"""Four tasks of lmms-eval ask the miniature, offline: `python -m tests.bench.lmms_eval_tasks`.

Run by hand in an environment with lmms-eval 0.7.3, `filelock<4` and tinyv. Three are tasks as they
come (gqa, pope, refcoco_bbox_rec_testA), whose data are made-up records instead of the hub's; one,
of log-likelihoods, is written here, since those that come are broken or have other data. What it
printed lies beside it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import datasets

EXAMPLES = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "examples"
FOLDERS = {"GQA": "gqa", "POPE": "pope", "RefCOCO": "refcoco", "LIKELIHOODS": "pope"}
TASKS = ["gqa", "pope", "refcoco_bbox_rec_testA", "yes_or_no_likelihood"]
LIKELIHOOD = """
task: yes_or_no_likelihood
dataset_path: made-up/LIKELIHOODS
test_split: test
output_type: loglikelihood
doc_to_visual: !function visuals.read
doc_to_text: "{{question}}"
doc_to_target: answer
process_results: !function visuals.process
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: perplexity
    aggregation: mean
    higher_is_better: false
metadata:
  - version: 0.0
"""
VISUALS = """
from ast import literal_eval


def read(doc):
    return [doc["image"]]


def process(doc, results):
    loss, is_greedy = literal_eval(results[0])  # 0.7.3 makes a text of each result
    return {"acc": float(is_greedy), "perplexity": loss}
"""


def load_example(path, name=None, split=None, **_):
    """Loads an example in place of the hub's data set."""
    folder = EXAMPLES / FOLDERS[path.rpartition("/")[2]] / "hub" / (name or "data")
    files = {each.name.partition("-")[0]: str(each) for each in sorted(folder.glob("*.parquet"))}
    found = load_dataset("parquet", data_files=files)
    for part, table in found.items():
        if "image" in table.column_names:
            found[part] = table.cast_column("image", datasets.Image())
    return found if split is None else found[split]


if __name__ == "__main__":
    load_dataset = datasets.load_dataset
    datasets.load_dataset = load_example
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "yes_or_no.yaml").write_text(LIKELIHOOD, "utf-8")
        Path(folder, "visuals.py").write_text(VISUALS, "utf-8")
        manager = TaskManager(include_path=folder)
        done = simple_evaluate(
            model="tinyv",
            model_args="tag=[vqa],threads=1",
            tasks=TASKS,
            task_manager=manager,
            log_samples=True,
            batch_size=1,
        )
    for task in TASKS:
        answers = [each["filtered_resps"] for each in done["samples"][task]]
        results = done["results"][task].items()
        figures = {key: value for key, value in results if "," in key and "stderr" not in key}
        sys.stdout.write(json.dumps({"task": task, "answers": answers, **figures}, default=str))
        sys.stdout.write("\n")

"""What a batch on Ray's workers bears, and what it costs beside `tinyv batch`; run by hand.

`python -m tests.bench.clustered FOLDER STEP...` prints a JSON line a step. Steps: files, parquet,
join, workers, driver, memory, full (as root), vanish, bucket, ray. The last
compares: the same pictures with a wait in each, by Ray's workers and by two of `tinyv batch`.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests.demo import DEMO
from tests.light.clustered.bucket import REFUSED, serve_bucket

ROOT = Path(__file__).resolve().parents[2]
N_PICTURES, N_BROKEN = 300, 5
PROMPT = "[caption] describe this image."
PORT = 39127  # of the cluster that is joined
SPEED_WAIT_S, N_SPEED = 2.0, 420
THRESHOLD = 0.3  # of this machine's memory, past which Ray kills a worker in the step `memory`

# Put before what a worker imports: a wait that stands in for the full size, and a worker that eats
# memory once, if the file that says so is there.
HOOK = """
import importlib.abc, importlib.util, os, sys, threading, time

def wait(module):
    encode, s = module.PicturePrefetcher._encode, float(os.environ["BENCH_WAIT_S"])
    def slower(self, read):
        time.sleep(s)
        return encode(self, read)
    module.PicturePrefetcher._encode = slower

def eat(module):
    init = module.Captioner.__init__
    def hungry(self, *args):
        init(self, *args)
        try:
            os.remove(os.environ["BENCH_EATS"])
        except OSError:
            return
        def grow():
            held = []
            while True:
                held.append(b"x" * (64 << 20))
                time.sleep(0.02)
        threading.Timer(3, grow).start()
    module.Captioner.__init__ = hungry

CHANGES = {"tinyv_cli.backends.prefetch_pictures": ("BENCH_WAIT_S", wait),
           "tinyv_cli.batch.cluster.captioner": ("BENCH_EATS", eat)}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        variable, change = CHANGES.get(name, ("", None))
        if not os.environ.get(variable):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module
        def run_and_change(module):
            run(module)
            change(module)
        spec.loader.exec_module = run_and_change
        return spec

sys.meta_path.insert(0, Finder())
"""


class Place:
    """A folder with an album, a home, and the lines of runs."""

    def __init__(self, root):
        self.root = root.resolve()
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{self.root / 'hook'}{os.pathsep}{ROOT}",
            "TINYV_HOME": str(self.root / "home"),
        }
        (self.root / "hook").mkdir(parents=True, exist_ok=True)
        (self.root / "hook" / "sitecustomize.py").write_text(HOOK)
        if not (self.root / "album").exists():
            self._draw()

    def _draw(self):
        """Two folders of pictures with equal names, some broken, one of them empty."""
        shown = sorted((DEMO / "examples").glob("*.png"))
        for index in range(N_PICTURES):
            path = self.root / "album" / "ab"[index % 2] / f"{index // 2:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(shown[index % len(shown)]).convert("RGB"))
            pixels = np.roll(pixels, (index, 3 * index), (0, 1))
            Image.fromarray(pixels).save(path)
            if index % (N_PICTURES // N_BROKEN) == 1:
                content = path.read_bytes()
                path.write_bytes(b"" if index == 1 else content[: len(content) // 2])

    def start(self, source, target, *flags, cluster="local", **own):
        words = ["batch", "-r", *source.split(), PROMPT, "-t", "1", "-o", str(target), *flags]
        if cluster:
            words += ["--cluster", cluster, "--workers", "2"]
        return subprocess.Popen(
            [sys.executable, "-m", "tinyv_cli", *words],
            cwd=self.root,
            env={**self.environment, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args, **own):
        """Runs to the end; returns exit code, seconds, and the last words on stderr."""
        begun_s = time.monotonic()
        process = self.start(*args, **own)
        out, err = process.communicate()
        assert out == "", out
        return process.returncode, round(time.monotonic() - begun_s, 1), err.strip()[-500:]

    def read(self, target):
        """The lines of a target by their names, each once; without times."""
        path = self.root / target
        contents = (
            [each.read_text("utf-8") for each in sorted(path.glob("part-*"))]
            if (path.is_dir())
            else [path.read_text("utf-8")]
        )
        lines = [json.loads(each) for text in contents for each in text.splitlines()]
        by_path = {line.pop("path"): {**line, "timings": None} for line in lines}
        assert len(by_path) == len(lines), "a picture has two lines"
        return by_path

    def compare(self, lines, *but):
        """How many lines there are, and which differ from those of `tinyv batch`."""
        here = self.root / "here.jsonl"
        if not here.exists():
            self.run("album", here, cluster=None)
        expected = self.read("here.jsonl")
        differing = [name for name in expected if lines.get(name) != expected[name]]
        return {
            "lines": len(lines),
            "n_other": sum(name not in but for name in differing),
            "other": [(name, lines.get(name), expected[name]) for name in differing][:2],
        }


def list_workers(process):
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if is_captioner(each)]


def is_captioner(process):
    with contextlib.suppress(psutil.Error):
        return "MapBatches(Captioner)" in " ".join(process.cmdline())
    return False


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_join(place):
    """A cluster that was started by hand on loopback is joined, and goes on afterwards."""
    words = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=3",
        f"--port={PORT}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
        "--disable-usage-stats", f"--temp-dir={place.root / 'r'}",
    ]  # fmt: skip
    place.environment["HOME"] = str(place.root / "user")
    log = (place.root / "head.log").open("w")
    head = subprocess.Popen(words, env=place.environment, cwd=place.root, stdout=log, stderr=log)
    try:
        while "Ray runtime started" not in (place.root / "head.log").read_text():
            assert head.poll() is None
            time.sleep(0.2)
        runs = [place.run("album", f"join{n}.jsonl", cluster=f"127.0.0.1:{PORT}") for n in (1, 2)]
        is_there = head.poll() is None
    finally:
        head.terminate()
        head.wait()
    compared = [place.compare(place.read(f"join{n}.jsonl")) for n in (1, 2)]
    return {"runs": runs, "is_there": is_there, "compared": compared}


def run_files(place):
    code, s, _ = place.run("album", "files.jsonl")
    first = place.compare(place.read("files.jsonl"))
    before = (place.root / "files.jsonl").read_bytes()
    again = place.run("album", "files.jsonl")
    assert (place.root / "files.jsonl").read_bytes() == before
    return {"code": code, "s": s, "again": again[:2], **first}


def run_parquet(place):
    import pyarrow as pa
    from pyarrow import parquet

    paths = sorted(p.relative_to(place.root) for p in (place.root / "album").rglob("*.png"))
    table = {"path": list(map(str, paths)), "bytes": [(place.root / p).read_bytes() for p in paths]}
    parquet.write_table(pa.table(table), place.root / "album.parquet", row_group_size=100)
    code, s, _ = place.run("album.parquet", "parquet.jsonl")
    return {"code": code, "s": s, **place.compare(place.read("parquet.jsonl"))}


def run_workers(place):
    """Ten workers are killed at random moments."""
    target, rng, killed = place.root / "workers.jsonl", random.Random(20), []
    moments = sorted(rng.sample(range(N_PICTURES - 40), 10))
    process = place.start("album", target, BENCH_WAIT_S="0.3")
    for moment in moments:
        while count_lines(target) < moment or not (found := list_workers(process)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        rng.choice(found).kill()
        killed.append(count_lines(target))
    process.communicate()
    lines = place.read("workers.jsonl")
    return {"code": process.returncode, "killed_at": killed, **place.compare(lines)}


def run_driver(place):
    """The driver is killed at five random moments, interrupted once, and begun again each time."""
    target, rng, killed = place.root / "driver.jsonl", random.Random(21), []
    for moment in [0, *sorted(rng.sample(range(10, N_PICTURES - 40), 4)), N_PICTURES - 30]:
        process = place.start("album", target)
        begun_s = time.monotonic()
        while count_lines(target) < moment or (moment == 0 and time.monotonic() - begun_s < 8):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        last = moment == N_PICTURES - 30
        process.send_signal(signal.SIGINT if last else signal.SIGKILL)
        process.communicate()
        workers = [each for each in children if is_captioner(each)]
        left = [len(psutil.wait_procs(each, 20)[1]) for each in (workers, children)]
        killed.append((count_lines(target), process.returncode, *left))
    code, s, _ = place.run("album", target)
    before = target.read_bytes()
    again = place.run("album", target)
    assert target.read_bytes() == before
    compared = place.compare(place.read("driver.jsonl"))
    return {"code": code, "s": s, "killed_at": killed, "again": again[:2], **compared}


def run_memory(place):
    """A worker eats memory until Ray's monitor kills it."""
    eats = place.root / "eats"
    eats.touch()
    own = {"BENCH_EATS": str(eats), "RAY_memory_usage_threshold": str(THRESHOLD)}
    most = [0.0]
    process = place.start("album", "memory.jsonl", BENCH_WAIT_S="0.3", **own)
    while process.poll() is None:
        most[0] = max(most[0], psutil.virtual_memory().percent)
        time.sleep(0.1)
    err = process.communicate()[1][-300:]
    compared = place.compare(place.read("memory.jsonl"))
    eaten = {"was_eaten": not eats.exists(), "most_percent": most[0]}
    return {"code": process.returncode, "err": err, **eaten, **compared}


def run_full(place):
    """The target's disk has 16 kB; later there is room."""
    disk = place.root / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=True)
    try:
        first = place.run("album", "disk/full.jsonl")
        n_lines = len(place.read("disk/full.jsonl"))
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        code, s, _ = place.run("album", "disk/full.jsonl")
        compared = place.compare(place.read("disk/full.jsonl"))
    finally:
        subprocess.run(["umount", disk], check=True)
    return {"first": first, "lines_at_first": n_lines, "code": code, "s": s, **compared}


def run_vanish(place):
    """The folder is taken away in mid-run, and put back."""
    target = place.root / "vanish.jsonl"
    process = place.start("album", target)
    while count_lines(target) < N_PICTURES // 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    (place.root / "album").rename(place.root / "away")
    process.communicate()
    (place.root / "away").rename(place.root / "album")
    lines = place.read("vanish.jsonl")
    failed = [line["error"]["problem"] for line in lines.values() if "error" in line]
    again = place.run("album", target, "--retry")
    compared = place.compare(place.read("vanish.jsonl"))
    first = {"lines": len(lines), "failed": len(failed), "such_as": failed[-1]}
    return {"code": process.returncode, "first": first, "again": again[:2], **compared}


def run_bucket(place):
    """A bucket whose listings have pages of 50, with the variant in it."""
    pages, variant = [], place.root / "album" / "variant"
    if not variant.exists():
        words = [sys.executable, "-m", "tinyv_cli", "push", "miniature", variant]
        subprocess.run(words, env=place.environment, check=True, cwd=place.root)
    with serve_bucket(place.root, pages) as keys:
        bad = {**keys, "AWS_ACCESS_KEY_ID": "bad"}
        wrong = place.run("s3://photos/album", "wrong.jsonl", **bad)
        code, s, _ = place.run("s3://photos/album", "s3://photos/out.jsonl", **keys)
        again = place.run("s3://photos/album", "s3://photos/out.jsonl", **keys)
        os.environ.update(keys)
        from tinyv_cli.batch.cluster.storage import Place as Stored

        lines = {}
        for address in Stored("s3://photos/out.jsonl").list_files(recurses=False):
            for text in Stored(address).read().splitlines():
                line = json.loads(text)
                name = line.pop("path").removeprefix("s3://photos/")
                assert name not in lines, name
                lines[name] = json.loads(json.dumps(line).replace("s3://photos/", ""))
                lines[name]["timings"] = None
        refused = lines[f"album/{REFUSED}"]["error"]
        compared = place.compare(lines, f"album/{REFUSED}")
        own = ["--variant-from", "s3://photos/album/variant"]
        keys["TINYV_HOME"] = str(place.root / "other-home")
        to_parquet = place.run("s3://photos/album", "s3://photos/out.parquet", *own, **keys)
        from pyarrow import parquet

        table = parquet.read_table("photos/out.parquet", filesystem=Stored("s3://photos").files)
        n_names = len(set(table["path"].to_pylist()))
    found = {"wrong": wrong, "again": again[:2], "refused": refused, "pages": pages[0]}
    found |= {"parquet": to_parquet[:2], "rows": table.num_rows, "names": n_names}
    return {"code": code, "s": s, **found, **compared}


def run_ray(place):
    """The same pictures, at the same time, by two workers and by two of `tinyv batch`."""
    for index in range(N_SPEED):
        path = place.root / "speed" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.root / "album" / "a" / f"{10 + index % 10:03}.png", path)
    load, begun_s, wait = os.getloadavg()[0], time.monotonic(), {"BENCH_WAIT_S": str(SPEED_WAIT_S)}
    flags = ("--no-cache", "--fresh")
    runs = {"ray": place.start("speed", "speed.jsonl", *flags, **wait)}
    for each in "ab":
        target = f"speed-{each}.jsonl"
        runs[each] = place.start(f"speed/{each}", target, *flags, cluster=None, **wait)
    seen, ends = [], {}
    while len(ends) < len(runs):
        now_s, n_lines = time.monotonic() - begun_s, count_lines(place.root / "speed.jsonl")
        if n_lines and (not seen or n_lines > seen[-1][1]):
            seen.append((round(now_s, 1), n_lines))
        for name, process in runs.items():
            if name not in ends and process.poll() is not None:
                ends[name] = round(now_s, 1)
        time.sleep(0.05)
    codes = [process.returncode for process in runs.values()]
    ratio = max(ends["a"], ends["b"]) / ends["ray"]
    seen = [seen[0], seen[len(seen) // 2], seen[-1]]
    return {"ratio": round(ratio, 3), "s": ends, "codes": codes, "load": load, "seen": seen}


def main(folder, *steps):
    place = Place(Path(folder))
    for step in steps:
        sys.stdout.write(json.dumps({"step": step, **globals()[f"run_{step}"](place)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

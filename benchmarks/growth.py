r"""What a image costs as the images become more: `load_utkface` over 1, 4 and 16 times the same shards.

    python -m benchmarks.growth --data_dir=...

The larger data sets are the given one with each shard linked 4 and 16 times, in a temporary folder. One pass of
training batches without a cache, each in its own process, so that memory is that of this pass alone: it is read
at the end of the first quarter and at its highest. Linear is the same time a image.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import turns

SIZES = (1, 4, 16)


def measure(data_dir: str | None, *, rounds: int = 2, batch_size: int = 64, one_pass: str = "") -> turns.Result:
    if one_pass:
        print(json.dumps(_pass(one_pass, batch_size)), flush=True)
        sys.exit()
    from agegender.data.prepared import find_prepared

    prepared = pathlib.Path(find_prepared(data_dir).data_dir)
    found: dict[int, list[dict[str, float]]] = {times: [] for times in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        for times in SIZES:
            _multiply(prepared, pathlib.Path(folder, str(times)), times)
        for turn in range(rounds):
            for times in SIZES[:: -1 if turn % 2 else 1]:
                found[times].append(_in_a_process(pathlib.Path(folder, str(times)), batch_size))
    rows: list[turns.Row] = [
        {
            "what": f"{times} times",
            "images": int(runs[0]["images"]),
            "us a image": min(run["us"] for run in runs),
            "slowest": max(run["us"] for run in runs),
            "MB at the first quarter": max(run["quarter"] for run in runs),
            "MB at most": max(run["peak"] for run in runs),
        }
        for times, runs in found.items()
    ]
    claims = []
    for times in SIZES[1:]:
        each = list(zip(found[times], found[1], strict=True))
        claims.append(turns.Claim(f"time a image, {times} / 1", [a["us"] / b["us"] for a, b in each], at_most=1.1))
        claims.append(turns.Claim(f"memory, {times} / 1", [a["peak"] / b["peak"] for a, b in each], at_most=1.1))
    return turns.Result("One pass of training batches, without a cache", rows, claims)


def _multiply(prepared: pathlib.Path, folder: pathlib.Path, times: int) -> None:
    """Lays out a data set whose training split has each shard so many times."""
    new = folder.joinpath(*prepared.parts[-3:])
    new.mkdir(parents=True)
    shutil.copytree(prepared.parents[1] / ".config", new.parents[1] / ".config")  # names the default config
    info = json.loads((prepared / "dataset_info.json").read_text())
    split = next(split for split in info["splits"] if split["name"] == "train")
    shards = sorted(prepared.glob("*-train.tfrecord-*"))
    for index in range(times * len(shards)):
        name = f"{shards[0].name.rpartition('-train')[0]}-train.tfrecord-{index:05d}-of-{times * len(shards):05d}"
        os.symlink(shards[index % len(shards)].absolute(), new / name)
    split["shardLengths"] *= times
    info["splits"] = [split]
    (new / "dataset_info.json").write_text(json.dumps(info))
    for name in ("features.json", "metadata.json", "gender.labels.txt", "race.labels.txt"):
        (new / name).write_bytes((prepared / name).read_bytes())


def _in_a_process(folder: pathlib.Path, batch_size: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        f"--one_pass={folder}",
        f"--batch_size={batch_size}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The pass over {folder} failed: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _pass(folder: str, batch_size: int) -> dict[str, float]:
    import agegender as ag
    from agegender.data.prepared import find_prepared, stored_size

    height, _ = stored_size(find_prepared(folder)) or (200, 200)
    options: dict[str, Any] = {"batch_size": batch_size, "image_size": height, "data_dir": folder}
    dataset = ag.load_utkface("train", training=True, cache=None, **options)
    steps = dataset.steps_per_epoch
    stream = iter(dataset)
    next(stream)
    start, quarter, peak = time.perf_counter(), 0.0, 0.0
    for step in range(1, steps):
        next(stream)
        if step % 16 == 0:
            peak = max(peak, turns.resident())
        quarter = quarter or (peak if 4 * step >= steps else 0.0)
    seconds = time.perf_counter() - start
    images = (steps - 1) * batch_size
    return {
        "images": images,
        "us": 1e6 * seconds / images,
        "quarter": quarter,
        "peak": max(peak, turns.resident()),
    }


if __name__ == "__main__":
    turns.main(measure)

r"""The server against the Predictor alone: right answers, throughput and waiting times of many clients.

    python -m benchmarks.server [--aligned]

Starts `agegender serve`. First 50 clients send 10 photographs each, one after the other; then 500 clients send one each
at the same time. Every answer is compared with the Predictor's. Ends with 1 if one is wrong or missing.
"""

import collections
import contextlib
import http.client
import io
import json
import math
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from absl import app, flags

from agegender.environment import set_environment

_MODEL = flags.DEFINE_string("model", None, "A run or model file; by default the released model.")
_CLIENTS = flags.DEFINE_integer("clients", 50, "How many clients send requests one after the other.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 10, "Requests of each client.", lower_bound=1)
_CROWD = flags.DEFINE_integer("crowd", 500, "How many clients send one request at the same time.", lower_bound=0)
_PHOTOGRAPHS = flags.DEFINE_integer("photographs", 20, "Different ones, of two faces each.", lower_bound=1)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Send aligned faces: no detection.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes of the server.", lower_bound=1)

_TIMEOUT = 300  # seconds


class Reply(NamedTuple):
    """What a client got: which photograph it sent, the status (0: none), the JSON, and the seconds it took."""

    photograph: int
    status: int
    answer: Any
    seconds: float


def send_at_once(
    address: str, photographs: Sequence[bytes], *, clients: int, requests: int, aligned: bool
) -> list[Reply]:
    """Lets clients, each a thread with one connection, send photographs one after the other."""
    replies: list[Reply] = []
    start = threading.Barrier(clients)
    host = urlsplit(address).netloc
    path = f"/v1/predict?aligned={str(aligned).lower()}"

    def run_client(client: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=_TIMEOUT)
        start.wait()
        for request in range(requests):
            which = (client * 7 + request) % len(photographs)
            started = time.perf_counter()
            try:
                connection.request("POST", path, photographs[which], {"Content-Type": "image/png"})
                response = connection.getresponse()
                status, answer = response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                status, answer = 0, repr(error)
            replies.append(Reply(which, status, answer, time.perf_counter() - started))
        connection.close()

    threads = [threading.Thread(target=run_client, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def draw_photographs(count: int, *, aligned: bool) -> list[bytes]:
    """Files of drawn photographs with two people each, or of drawn aligned faces."""
    from PIL import Image

    from agegender.synthetic.faces import draw_face, draw_people

    files = []
    for seed in range(count):
        age = 20 + seed % 40
        people = [(age, gender, seed % 5, seed) for gender in (0, 1)]
        pixels = draw_face(age, seed % 2, seed % 5, seed=seed) if aligned else draw_people(people)
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    return files


def is_same(answer: Any, expected: Any) -> bool:
    """Equal but for the last digits of numbers: batches of other sizes may add in another order."""
    if isinstance(answer, dict) and isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(is_same(answer[key], expected[key]) for key in answer)
    if isinstance(answer, list) and isinstance(expected, list):
        return len(answer) == len(expected) and all(map(is_same, answer, expected))
    if isinstance(answer, float) and isinstance(expected, float | int):
        return math.isclose(answer, expected, rel_tol=1e-4, abs_tol=1e-4)
    return answer == expected


@contextlib.contextmanager
def run_command(model: str | None, workers: int) -> Iterator[tuple[str, int]]:
    """The address and the process id of `agegender serve`."""
    command = [sys.executable, "-m", "agegender.cli", "serve", "--port=0", f"--workers={workers}"]
    process = subprocess.Popen([*command, model] if model else command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found, "The server did not start."
        send_at_once(found[0], draw_photographs(1, aligned=False), clients=workers, requests=2, aligned=False)
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def read_memory(pid: int) -> float:
    """Resident memory of a process, in MB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmRSS"))


def main(_: list[str]) -> None:
    set_environment()
    from agegender import Predictor

    aligned = _ALIGNED.value
    photographs = draw_photographs(_PHOTOGRAPHS.value, aligned=aligned)
    predictor = Predictor(_MODEL.value)
    expected = [json.loads(json.dumps(each.to_dict())) for each in predictor(photographs, aligned=aligned)]

    def time_predictor() -> float:
        """Photographs a second."""
        started = time.perf_counter()
        predictor(photographs * 5, aligned=aligned)
        return len(photographs) * 5 / (time.perf_counter() - started)

    def is_right(reply: Reply) -> bool:
        answer = {**reply.answer, "image": expected[reply.photograph]["image"]} if reply.status == 200 else None
        return is_same(answer, expected[reply.photograph])

    alone = [time_predictor()]
    with run_command(_MODEL.value, _WORKERS.value) as (address, pid):
        before, started = read_memory(pid), time.perf_counter()
        counts = {"clients": _CLIENTS.value, "requests": _REQUESTS.value}
        replies = send_at_once(address, photographs, aligned=aligned, **counts)
        served = len(replies) / (time.perf_counter() - started)
        crowd = send_at_once(address, photographs, aligned=aligned, clients=_CROWD.value, requests=1)
        after = read_memory(pid)
    alone.append(time_predictor())

    right = sum(map(is_right, replies))
    waits = sorted(reply.seconds for reply in replies)
    median, p99 = statistics.median(waits), waits[math.ceil(0.99 * len(waits)) - 1]
    print(f"{len(photographs)} {'aligned faces' if aligned else 'photographs of two faces'}, {counts}")
    print(f"{right} of {len(replies)} answers are right")
    print(f"{served:.1f} a second; the Predictor alone {alone[0]:.1f} before and {alone[1]:.1f} after")
    print(f"served / alone: {served / statistics.mean(alone):.2f}")
    print(f"a client waits {median:.2f} s (median), {p99:.2f} s (p99): {p99 / median:.1f} times the median")
    statuses = collections.Counter(reply.status for reply in crowd)
    wrong = [reply for reply in crowd if not (reply.status == 503 or is_right(reply))]
    longest = max((reply.seconds for reply in crowd), default=0)
    print(f"{len(crowd)} clients at once: {dict(statuses)}, longest {longest:.1f} s")
    print(f"memory of the server: {before:.0f} MB before, {after:.0f} MB after")
    for reply in [reply for reply in replies if not is_right(reply)][:3] + wrong[:3]:
        print(f"wrong: {reply}")
    sys.exit(right != len(replies) or bool(wrong))


if __name__ == "__main__":
    app.run(main)

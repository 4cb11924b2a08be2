r"""Many programs ask the web page at once: does each get what the Predictor answers, and how long does it take?

    python -m benchmarks.clients --model=runs/1

Each client is Gradio's own, in a thread, and asks for one drawn photograph after the other, in an order of its own.
Without a model it takes VGG16 at 64 pixels with random weights. Ends with 1 if an answer is wrong or missing.
"""

import base64
import concurrent.futures
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from agegender.environment import set_environment

_MODEL = flags.DEFINE_string("model", None, "A run or .keras file; by default VGG16 with random weights.")
_CLIENTS = flags.DEFINE_integer("clients", 50, "How many ask at once.", lower_bound=1)
_ANSWERS = flags.DEFINE_integer("answers", 500, "How many are asked for in all.", lower_bound=1)
_PHOTOGRAPHS = flags.DEFINE_integer("photographs", 20, "Different ones, of two faces each.", lower_bound=1)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Give them as one aligned face: no detection.")


def ask_at_once(
    address: str, photographs: Sequence[bytes], *, clients: int, answers: int, aligned: bool = False
) -> list[tuple[int, Any, float]]:
    """Lets many clients ask at once.

    Args:
        address: the page's.
        photographs: files.
        clients: how many.
        answers: of all clients together.
        aligned: as `Predictor` takes it.

    Returns:
        For each answer the number of its photograph, what came, or the error, and the seconds it took.
    """
    from gradio_client import Client

    texts = [base64.b64encode(photograph).decode() for photograph in photographs]

    def ask(number: int) -> list[tuple[int, Any, float]]:
        client = Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 120})
        got = []
        for turn in range(number, answers, clients):
            which = (turn * 7 + number) % len(texts)
            before = time.perf_counter()
            try:
                answer = client.predict(texts[which], aligned, api_name="/predict")
            except Exception as error:  # whatever it is, it is no right answer
                answer = error
            got.append((which, answer, time.perf_counter() - before))
        return got

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return [each for got in pool.map(ask, range(clients)) for each in got]


def draw_photographs(count: int) -> list[bytes]:
    """Files of photographs with two drawn people each."""
    from PIL import Image

    from agegender.synthetic.faces import draw_people

    def draw(seed: int) -> bytes:
        file = io.BytesIO()
        people = [(20 + seed % 40, gender, seed % 5, seed) for gender in (0, 1)]
        Image.fromarray(draw_people(people)).save(file, "PNG")
        return file.getvalue()

    return [draw(seed) for seed in range(count)]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # each request of a client is told
    set_environment()
    from agegender import Predictor
    from agegender.demo import build_demo, start

    predictor = Predictor(_MODEL.value or _make_model())
    photographs = draw_photographs(_PHOTOGRAPHS.value)
    predictor(photographs[0], aligned=_ALIGNED.value)  # loads what is loaded late
    before = time.perf_counter()
    right = [json.loads(json.dumps(predictor(each, aligned=_ALIGNED.value).to_dict())) for each in photographs]
    alone = len(right) / (time.perf_counter() - before)
    page = build_demo(predictor)
    numbers: dict[str, Any] = {"clients": _CLIENTS.value, "answers": _ANSWERS.value, "aligned": _ALIGNED.value}
    address, before = start(page, port=None), time.perf_counter()
    got = ask_at_once(address, photographs, **numbers)
    seconds = time.perf_counter() - before
    page.close(verbose=False)
    good, waits = sum(answer == right[which] for which, answer, _ in got), [wait for *_, wait in got]
    print(f"{numbers}, {len(photographs)} photographs, {sum(len(each['faces']) for each in right)} faces")
    print(f"{good} of {_ANSWERS.value} answers are those of the Predictor, to the last digit")
    print(f"{seconds:.1f} s: {len(got) / seconds:.2f} a second; the Predictor alone {alone:.2f} a second")
    print(f"a client waits {statistics.median(waits):.2f} s (median), {max(waits):.2f} s (longest)")
    for error in [answer for _, answer, _ in got if isinstance(answer, Exception)][:3]:
        print(repr(error))
    sys.exit(good != _ANSWERS.value)


def _make_model() -> Any:
    import keras
    import numpy as np

    import agegender as ag

    keras.utils.set_random_seed(1)
    model = ag.build_model(ag.vggface_trunk("vgg16", image_size=64, weights=None, trainable="none", seed=1))
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:  # new heads answer the same for every face
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    return model


if __name__ == "__main__":
    app.run(main)

import multiprocessing
import pathlib
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from agegender.inference import runtime
from agegender.inference.runtime import OnnxModel

RNET = pathlib.Path(runtime.__file__).parent / "mtcnn" / "rnet.onnx"
CROPS = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype("float32")


def answer(model: OnnxModel, queue: Any) -> None:
    queue.put(model.run(CROPS)[0])


def test_a_pickled_model_answers_the_same() -> None:
    model = OnnxModel(RNET)
    expected = model.run(CROPS)[0]
    assert expected.shape == (3, 5)
    content = pickle.dumps(model)
    assert len(content) < 1_000
    np.testing.assert_allclose(pickle.loads(content).run(CROPS)[0], expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_another_process_answers_after_this_one_did(method: str) -> None:
    model = OnnxModel(RNET)
    expected = model.run(CROPS)[0]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=answer, args=(model, queue))
    child.start()
    try:
        np.testing.assert_allclose(queue.get(), expected, atol=1e-5)
    finally:
        child.kill()
        child.join()


def test_eight_threads_get_the_same_answers() -> None:
    model, answers = OnnxModel(RNET), []
    threads = [threading.Thread(target=lambda: answers.append(model.run(CROPS)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and all(np.allclose(values, answers[0], atol=1e-5) for values in answers)

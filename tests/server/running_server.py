"""A real server in a thread of the tests' process, on a free port, with the released model."""

import contextlib
import functools
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

import agegender as ag
from agegender.server import create_app
from agegender.server.runner import make_config
from agegender.synthetic.faces import draw_people

COUPLE = draw_people([(23, 1, 4, 39), (47, 0, 3, 36)])


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def draw_noise(seed: int, size: int = 64) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (size, size, 3), "uint8"))


@contextlib.contextmanager
def run_server(predictor: ag.Predictor, **options: Any) -> Iterator[str]:
    """The address of a server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(make_config(create_app(predictor, **options)))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
        yield address
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@functools.cache
def load_released() -> ag.Predictor:
    return ag.Predictor()

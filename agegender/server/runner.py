"""Runs the server until it is interrupted."""

import asyncio
import contextlib
import errno
import json
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from agegender.inference.predictor import Predictor
from agegender.server.app import create_app

_OPTIONS_VARIABLE: Final = "AGEGENDER_SERVER_OPTIONS"  # how worker processes learn them
_MAX_CONNECTIONS: Final = 1000
_HEADER_SECONDS: Final = 10.0  # in which the header of a request must arrive
_SHUTDOWN_SECONDS: Final = 10
_LOADING_SECONDS: Final = 120  # in which a worker must have loaded its model


def serve(
    model: str | os.PathLike | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    workers: int = 1,
    allowed_hosts: Sequence[str] = (),
    root_path: str = "",
    open_page: bool = False,
) -> None:
    """Serves the API and the page until it is interrupted.

    Args:
        model: as `Predictor` takes it; None is the released model.
        host: the address to listen on; "0.0.0.0" lets other machines in.
        port: 1 to 65,535; 0 is a free one.
        workers: processes, each with a model of its own.
        allowed_hosts: further names of this server, as `create_app` takes them.
        root_path: a proxy's prefix, as `create_app` takes it.
        open_page: whether to open the page in a browser.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if an argument is out of range.
        OSError: if the port is in use, or the host is not an address of this machine.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"`workers` must be a whole number, 1 or more. Received: workers={workers!r}")
    with _listen(host, port) as listener:
        if workers == 1:
            app = create_app(Predictor(model), allowed_hosts=allowed_hosts, root_path=root_path)
            _announce(listener, open_page)
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(make_config(app)).run([listener])
            return
        options = {"model": model and os.fspath(model), "allowed_hosts": list(allowed_hosts), "root_path": root_path}
        Predictor(model)  # so that a wrong model is an error here
        with _share_with_workers(options):
            _announce(listener, open_page)
            config = make_config("agegender.server.runner:create_worker_app", factory=True, workers=workers)
            Multiprocess(config, sockets=[listener]).run()


def make_config(app: Starlette | str, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    """The settings of uvicorn that the server is made for.

    Args:
        app: the application, or the name of what makes it.
        factory: whether it is called to make the application.
        workers: processes.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each damaged body
    return uvicorn.Config(
        app,
        factory=factory,
        workers=workers,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_worker_healthcheck=_LOADING_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def create_worker_app() -> Starlette:
    """Builds the application in a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    options = json.loads(os.environ[_OPTIONS_VARIABLE])
    return create_app(Predictor(options.pop("model")), **options)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would keep the port."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Connection(H11Protocol):
    """Closes a connection on which no request begins; uvicorn waits for the rest of a header for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_cycle: object = None
        self._check_later()

    def _check_later(self) -> None:
        self.loop.call_later(_HEADER_SECONDS, self._check_progress)

    def _check_progress(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()  # the client does not read the rest
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._last_cycle:
            self.transport.close()
        self._last_cycle = self.cycle if is_idle else self
        self._check_later()


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket; before the model is loaded, which takes seconds."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ValueError(f"`port` must be in 0..65535. Received: port={port!r}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} is in use; choose another, such as --port={min(port + 1, 65_535)}.") from None
        raise OSError(
            f"`host` must be an address of this machine: {error.strerror}. Received: host={host!r}, port={port}"
        ) from None


def _announce(listener: socket.socket, open_page: bool) -> None:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{host}:{port}/"
    print(f"The page is at {address}, the API at {address}v1/predict (Ctrl-C stops the server).", flush=True)
    if open_page:
        webbrowser.open(address)


@contextlib.contextmanager
def _share_with_workers(options: dict[str, object]) -> Iterator[None]:
    """Sets what worker processes read: the options, and the folder in which they add up their metrics."""
    with tempfile.TemporaryDirectory(prefix="agegender-metrics-") as folder:
        os.environ |= {_OPTIONS_VARIABLE: json.dumps(options), "PROMETHEUS_MULTIPROC_DIR": folder}
        try:
            yield
        finally:
            del os.environ[_OPTIONS_VARIABLE], os.environ["PROMETHEUS_MULTIPROC_DIR"]

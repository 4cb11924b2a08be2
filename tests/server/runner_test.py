"""The command: what it checks before it serves, several processes, how it ends."""

import asyncio
import inspect
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from conftest import ROOT
from running_server import draw_noise, load_released
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

import agegender as ag
from agegender import cli
from agegender.server import create_app, runner, serve

OCTETS = {"content-type": "application/octet-stream"}


def test_port_in_use_is_named_before_the_model_is_loaded(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"^Port {port} is in use; choose another, such as --port={port + 1}.$"):
            serve(tmp_path, port=port)


@pytest.mark.parametrize("port", [-4, 65_536, True])
def test_port_out_of_range_is_named(port: int) -> None:
    with pytest.raises(ValueError, match=f"Received: port={port}"):
        serve(port=port)


def test_other_wrong_arguments_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match=r"`host` must be an address of this machine: .* host='192.0.2.1'"):
        serve(host="192.0.2.1", port=0)
    with pytest.raises(ValueError, match=r"`workers` must be a whole number, 1 or more. Received: workers=0"):
        serve(workers=0)
    with pytest.raises(FileNotFoundError):
        serve(tmp_path / "missing.onnx", port=0)
    with pytest.raises(ValueError, match=r'`root_path` must be a path such as "/faces". Received: root_path=\'faces\''):
        create_app(None, root_path="faces")  # type: ignore[arg-type]


@pytest.mark.parametrize(("command", "opens"), [("serve", False), ("demo", True)])
def test_command_hands_its_options_over(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, command: str, opens: bool
) -> None:
    received: dict = {}
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr("agegender.server.serve", lambda model, **options: received.update(options, model=model))
    arguments = [f"{tmp_path}/model.onnx", "--host=0.0.0.0", "--port=80", "--workers=3", "--root-path=/faces"]
    assert cli.main([command, *arguments, "--allowed-hosts=a.example,b.example", "--allowed-hosts=c.example"]) == 0
    assert received == {
        "model": f"{tmp_path}/model.onnx",
        "host": "0.0.0.0",
        "port": 80,
        "workers": 3,
        "allowed_hosts": ["a.example", "b.example", "c.example"],
        "root_path": "/faces",
        "open_page": opens,
    }
    defaults = {name: option.default for name, option in inspect.signature(serve).parameters.items()}
    assert (defaults["host"], defaults["port"], defaults["workers"]) == ("127.0.0.1", 7860, 1)
    monkeypatch.setenv("AGEGENDER_MODEL", f"{tmp_path}/model.onnx")
    assert cli.main([command]) == 0
    assert {**received, "allowed_hosts": tuple(received["allowed_hosts"])} == {**defaults, "open_page": opens}


@pytest.mark.parametrize(
    ("host", "named"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")]
)
def test_page_is_announced_and_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, named: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    listener = types.SimpleNamespace(getsockname=lambda: (host, 80, 0, 0)[: 4 if ":" in host else 2])
    for open_page in (False, True):
        runner._announce(listener, open_page)
    page = f"http://{named}:80/"
    assert capsys.readouterr().out.count(f"The page is at {page}, the API at {page}v1/predict ") == 2
    assert opened == [page]


def ask_app(app: Starlette, host: str, path: str) -> int:
    async def ask() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return (await client.get(path)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("workers", [1, 2])
def test_options_reach_the_application(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, workers: int) -> None:
    loaded, apps, configs, opened = [], [], [], []

    def run(server: uvicorn.Server | Multiprocess, sockets: list | None = None) -> None:
        configs.append(server.config)
        apps.append(runner.create_worker_app() if workers > 1 else server.config.app)

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setattr(runner.Multiprocess, "run", run)
    monkeypatch.setattr(runner, "Predictor", lambda model: (loaded.append(str(model)), load_released())[1])
    monkeypatch.setattr("webbrowser.open", opened.append)
    options = {"allowed_hosts": ["faces.example"], "root_path": "/faces", "open_page": True}
    serve(tmp_path / "m.onnx", port=0, workers=workers, **options)
    assert loaded == [str(tmp_path / "m.onnx")] * workers  # of two, the first is a trial
    (app,), (config,), (page,) = apps, configs, opened
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page)
    assert ask_app(app, "faces.example", "/faces/v1/model") == 200 and ask_app(app, "other.example", "/") == 421
    assert (config.workers, config.limit_concurrency, config.timeout_graceful_shutdown) == (workers, 1000, 10)
    assert config.timeout_worker_healthcheck == 120  # seconds to load a model in
    assert "AGEGENDER_SERVER_OPTIONS" not in os.environ and "PROMETHEUS_MULTIPROC_DIR" not in os.environ


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen, str]]:
    command = [sys.executable, "-m", "agegender.cli", "serve", "--port=0", *request.param]
    # Neither variable is for this server: it calls nobody, and says itself how many processes it starts.
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "nonsense", "WEB_CONCURRENCY": "4"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield process, found[0]
        finally:
            process.terminate()  # its workers end with it
            process.wait(60)


def post(address: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict?aligned=1", content=body, headers=OCTETS, timeout=120, trust_env=False)


@pytest.mark.slow
@pytest.mark.parametrize("served", [["--workers=1"]], indirect=True)
def test_command_serves_until_it_is_interrupted(served: tuple[subprocess.Popen, str]) -> None:
    process, address = served
    answer = post(address, draw_noise(1))
    expected = ag.Predictor()(draw_noise(1), aligned=True)
    assert answer.json()["faces"][0]["age"] == pytest.approx(expected[0].age, abs=1e-3)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("served", [["--workers=2"]], indirect=True)
def test_workers_answer_alike_and_add_up_their_metrics(served: tuple[subprocess.Popen, str]) -> None:
    _, address = served
    ages = {round(post(address, draw_noise(1)).json()["faces"][0]["age"], 3) for _ in range(12)}
    assert len(ages) == 1
    metrics = httpx.get(f"{address}/metrics", trust_env=False).text
    assert 'agegender_images_total{outcome="ok"} 12.0' in metrics

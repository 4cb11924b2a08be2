"""The commands, programs and configurations of docs/serving.md."""

import json
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import ROOT
from running_server import COUPLE, encode, load_released, run_server

from agegender.server.batching import MAX_WAITING
from agegender.server.uploads import MAX_BODY_BYTES, MAX_FILE_BYTES

TEXT = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:7860"


def find_block(language: str, words: str = "") -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if words in block)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_server(load_released(), allowed_hosts=["faces.example.org"]) as address:
        yield address


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "photo.jpg").write_bytes(encode(COUPLE, "JPEG"))
    (tmp_path / "broken.jpg").write_bytes(b"hello")
    return tmp_path


def run(command: list[str], folder: pathlib.Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


@needs("curl")
def test_curl_commands(server: str, folder: pathlib.Path) -> None:
    one = run(["bash", "-c", find_block("sh", "--data-binary").replace(ADDRESS, server)], folder)
    several = run(["bash", "-c", find_block("sh", "-F images").replace(ADDRESS, server)], folder)
    assert len(json.loads(one)["faces"]) == 2
    photograph, broken = json.loads(several)
    assert len(photograph["faces"]) == 2 and "error" in broken


def test_python_program(server: str, folder: pathlib.Path) -> None:
    said = run([sys.executable, "-c", find_block("python").replace(ADDRESS, server)], folder)
    assert re.fullmatch(r"([\d.]+ \[[\d.]+, [\d.]+\] (fe)?male\n){2}", said)


@needs("node")
def test_javascript_program(server: str, folder: pathlib.Path) -> None:
    (folder / "predict.mjs").write_text(find_block("javascript").replace(ADDRESS, server))
    assert re.fullmatch(r"([\d.]+ (fe)?male\n){2}", run(["node", "predict.mjs"], folder))


def test_limits_are_those_of_the_code() -> None:
    megabytes = MAX_FILE_BYTES // 1_000_000, MAX_BODY_BYTES // 1_000_000
    assert "an image of more than {} MB, or a body of more than {} MB".format(*megabytes) in TEXT
    assert f"503 | {MAX_WAITING} images are waiting" in TEXT


@needs("systemd-analyze")
def test_systemd_unit(folder: pathlib.Path) -> None:
    unit = find_block("ini").replace("/opt/agegender/bin/agegender", shutil.which("true") or "")
    (folder / "agegender.service").write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", folder / "agegender.service"], capture_output=True, text=True)
    assert "agegender.service" not in done.stderr


def start_nginx(folder: pathlib.Path, block: str) -> tuple[subprocess.Popen, int]:
    port = 18_443
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=faces.example.org"]
    run([*key, "-keyout", "faces.key", "-out", "faces.pem"], folder)
    block = block.replace("listen 443", f"listen {port}").replace("/etc/ssl/", f"{folder}/")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
    (folder / "nginx.conf").write_text(f"{head}\nhttp {{ access_log off; {places}\n{block}}}")
    process = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "nginx.conf"])
    return process, port


@pytest.mark.slow
@needs("nginx")
@pytest.mark.parametrize("keeps_prefix", [False, True])
def test_nginx_with_a_prefix_and_tls(folder: pathlib.Path, keeps_prefix: bool) -> None:
    with run_server(
        load_released(), allowed_hosts=["faces.example.org"], root_path="/faces" if keeps_prefix else ""
    ) as server:
        upstream = server if keeps_prefix else f"{server}/"
        process, port = start_nginx(folder, find_block("nginx").replace(f"{ADDRESS}/", upstream))
        try:
            context = ssl.create_default_context(cafile=folder / "faces.pem")
            context.check_hostname = False
            with httpx.Client(
                base_url=f"https://127.0.0.1:{port}/faces/",
                verify=context,
                headers={"host": "faces.example.org", "origin": "https://faces.example.org"},
                trust_env=False,
                timeout=60,
            ) as client:
                wait_for_nginx(client)
                assert "Age and gender" in client.get("").text
                assert client.get("page.js").status_code == 200
                large = encode(COUPLE.repeat(4, 0).repeat(4, 1), "BMP")  # 3.5 MB, more than nginx keeps in memory
                assert len(client.post("v1/predict", content=large).json()["faces"]) == 2
                # nginx promises to keep this connection and closes it, if the server answers before the body is read.
                once = {"connection": "close"}
                assert client.post("v1/predict", content=bytes(21_000_000), headers=once).status_code == 413
                assert client.get("metrics").status_code == 403
                assert client.get("v1/model", headers={"host": "evil.example"}).status_code == 421
            assert not [path for path in (folder / "client_body").rglob("*") if path.is_file()]
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)


def wait_for_nginx(client: httpx.Client) -> None:
    for _ in range(100):
        try:
            client.get("healthz")
        except httpx.ConnectError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("nginx does not answer")

"""The benchmark of the build, run as a user runs it, on a few dozen synthetic faces."""

import json
import pathlib
import subprocess
import sys
import zipfile

import pytest

import agegender

ROOT = pathlib.Path(__file__).parents[2]
FACES = 32


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.build", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def numbers(out: pathlib.Path, *arguments: str) -> dict:
    done = benchmark(*arguments, f"--out={out}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()) | {"printed": done.stdout}


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with synthetic faces in a zip, and one file that is no image."""
    drawn, folder = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("zipped")
    with zipfile.ZipFile(folder / "UTKFace.zip", "w") as archive:
        for path in agegender.write_faces(drawn, FACES, size=32):
            archive.write(path, f"UTKFace/{path.name}")
        archive.writestr("UTKFace/26_0_0_20170101000000000.jpg", b"\xff\xd8\xff cut short")
    return folder


def test_the_cost_is_the_ratio_of_the_medians_of_all_rounds(zipped: pathlib.Path, tmp_path: pathlib.Path) -> None:
    cost = numbers(tmp_path / "cost.json", f"--manual_dir={zipped}", "--rounds=1")["cost"]
    [((loop, loop_cpu), (built, built_cpu))] = cost["rounds"]
    assert cost["images"] == FACES and min(loop, loop_cpu) > 0
    assert built > loop and cost["ratio"] == pytest.approx(built / loop)
    assert cost["cpu_ratio"] == pytest.approx(built_cpu / loop_cpu)
    assert set(cost["phases"]) == {"taking in", "grouping", "writing"} and min(cost["phases"].values()) > 0
    own = [row["own"] for row in cost["profile"]]
    assert own == sorted(own, reverse=True) and own[-1] > 0


def test_what_is_planted_among_drawn_images_is_found(tmp_path: pathlib.Path) -> None:
    [row] = numbers(tmp_path / "growth.json", "--growth", "--sizes=60")["growth"]
    assert row["images"] == 60 and row["found"] == 1 and row["groups"] == 57  # every twentieth is planted


def test_an_eighth_is_measured_beside_all_each_by_itself(zipped: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = numbers(tmp_path / "eighth.json", f"--manual_dir={zipped}", "--eighth")
    eighth, whole = result["eighth"]
    assert (eighth["images"], whole["images"]) == (FACES // 8, FACES)
    assert "exponent" not in eighth and isinstance(whole["exponent"], float)
    for row in (eighth, whole):
        assert row["seconds"] > 0 and 0 < row["MB before"] <= row["peak"] and 0 < row["own peak"] < row["peak"]
        assert f"{row['us each']:,.0f}" in result["printed"]


def test_help_explains_and_no_folder_is_refused() -> None:
    assert "benchmarks.build --growth" in benchmark("--help").stdout
    done = benchmark()
    assert done.returncode != 0 and "--manual_dir=FOLDER or --growth" in done.stdout + done.stderr

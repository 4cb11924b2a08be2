"""The shape of the house: which room may import which, what an import costs, what runs without TensorFlow."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import agegender

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = ROOT / "agegender"
ROOMS = {
    str(path.relative_to(LIBRARY).with_suffix("")): path for path in LIBRARY.rglob("*.py")
    if path != LIBRARY / "__init__.py"
}  # fmt: skip
LEAVES = {"conditions", "model", "losses", "conformal"}
ABOVE = {
    "schema": set(),
    **{room: {"schema"} for room in LEAVES},
    "prepared": {"schema", "conditions"},
    "input_pipeline": {"schema", "conditions", "prepared"},
    "devices": set(),
    "metrics": set(),
    "vggface_weights": set(),
    "vggface": {"schema", "vggface_weights"},
    "pen": set(),
    "portrait": {"pen"},
    "synthetic": {"schema", "portrait"},
    "batch_norm": set(),
    "trunk_cache": set(),
    "learner": {"schema", "losses"},
    "files": set(),
    "processes": set(),
    "replicas": set(),
    "augment": {"replicas"},
    "interruptions": {"processes"},
    "optimizer": {"replicas"},
    "stages": set(),
    "stream": set(),
    "checkpoints": {"files", "processes"},
    "runrecord": {"files"},
    "resume": {"schema", "checkpoints", "interruptions", "processes"},
    "callbacks": {"schema", "files", "resume", "runrecord"},
    "running": {
        *("schema", "devices", "callbacks", "checkpoints", "files", "interruptions", "resume", "runrecord", "stages"),
        *("stream", "processes"),
    },
    "training": {
        *("losses", "learner", "trunk_cache", "checkpoints", "optimizer", "running", "stages", "stream"),
        *("processes", "replicas"),
    },
    "groups": {"schema", "metrics"},
    "measuring": {"schema", "metrics", "groups"},
    "evaluation": {"schema", "groups", "measuring", "answers", "calibration"},
    "report_story": {"schema", "metrics", "groups", "measuring"},
    "report_page": {"schema", "groups", "report_story"},
    "report_plots": {"schema", "groups", "measuring"},
    "report": {"schema", "groups", "measuring", "report_plots", "report_story", "report_page"},
    "calibration": {"schema", "conformal"},
    "images": set(),
    "alignment": {"schema"},
    "faces": set(),
    "environment": set(),
    "answers": {"schema"},
    "drawing": {"answers"},
    "loading": {"schema", "augment", "model", "vggface"},
    "predict": {
        *("schema", "calibration", "loading", "images", "faces", "alignment", "answers", "drawing"),
    },
    "writing": {"answers", "images", "drawing"},
    "exif": set(),
    "serving": {"schema", "batch_norm", "calibration", "exif"},
    "export": {"schema", "serving", "images", "predict"},
    "beam": {"schema", "environment", "loading", "images", "predict"},
    "demo/__init__": {"demo/page"},
    "demo/guard": set(),
    "demo/wording": {"demo/guard", "answers", "images", "predict"},
    "demo/page": {"demo/guard", "demo/wording", "predict", "synthetic"},
    "cli": {
        *("environment", "devices", "prepared", "loading", "images", "writing", "demo"),
        *("export", "interruptions", "runrecord", "schema"),
    },
}
MAY_IMPORT_TENSORFLOW = {"input_pipeline", "prepared"}


def imports(path: pathlib.Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_arrows_point_one_way(room: str) -> None:
    # `from agegender.demo.page import x` is `agegender.demo.page.x` here: the longest part of it that is a room counts.
    ours = [name.split(".")[1:] for name in imports(ROOMS[room]) if name.startswith("agegender.")]
    rooms = {"/".join(name[:2]) if "/".join(name[:2]) in ROOMS else name[0] for name in ours}
    assert rooms - set(agegender.__all__) == ABOVE[room]


@pytest.mark.parametrize("room", sorted(set(ROOMS) - MAY_IMPORT_TENSORFLOW))
def test_a_room_imports_tensorflow_only_where_the_house_allows(room: str) -> None:
    packages = {name.split(".")[0] for name in imports(ROOMS[room], top_level_only=True)}
    assert not packages & {"tensorflow", "tensorflow_datasets", "tf_keras"}


def test_nothing_of_the_library_imports_the_builder_or_the_experiments() -> None:
    for path in ROOMS.values():
        assert not {name.split(".")[0] for name in imports(path)} & {"datasets", "utkface", "experiments"}
    for path in (ROOT / "datasets").rglob("*.py"):
        if not path.name.endswith("_test.py"):
            assert not {name.split(".")[0] for name in imports(path)} & {"agegender", "experiments"}


def python(code: str, **environment: str) -> str:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_takes_under_half_a_second_and_no_heavy_package() -> None:
    code = """
import sys, time
before = time.perf_counter()
import agegender
seconds = time.perf_counter() - before
heavy = {"tensorflow", "keras", "numpy", "tensorflow_datasets", "matplotlib", "PIL"} & set(sys.modules)
print(seconds, sorted(heavy))
"""
    seconds, heavy = python(code).split(maxsplit=1)
    assert float(seconds) < 0.5 and heavy.strip() == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    for name in set(agegender.__all__) - {"__version__"}:
        assert getattr(agegender, name).__doc__, name
    assert set(agegender._MODULES) | {"__version__"} == set(agegender.__all__) == set(dir(agegender))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode_utkface'"):
        agegender.lode_utkface  # noqa: B018


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # an import now raises
import keras, numpy as np
import agegender as ag
from agegender import schema
from agegender.evaluation import metrics
assert keras.backend.backend() == "jax"
keras.utils.set_random_seed(0)
trunk = ag.vggface_trunk("vgg16", image_size=48, weights=None, trainable="all", seed=0)
model = ag.build_model(trunk)
images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype="uint8")
targets = {"age": np.array([[1.], [20.], [40.], [80.]]), "gender": np.array([[0.], [1.], [0.], [1.]])}
before = [np.array(w) for w in model.get_weights()]
augmentation = ag.Augmentation(seed=1)
"""


def test_joint_training_steps_run_on_jax_without_tensorflow(tmp_path: pathlib.Path) -> None:
    code = (
        WITHOUT_TENSORFLOW
        + """
class Batches(keras.utils.PyDataset):
    def __len__(self): return 2
    def __getitem__(self, index): return images, targets

history = ag.train(model, Batches(), Batches(), workdir=sys.argv[1], epochs=1, augmentation=augmentation, verbose=0)
changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
assert augmentation.step == 2
print(sum(changed), len(changed), history.history["loss"][0])
report = ag.evaluate(model, [(images, targets)])
assert report.count == 4
assert len(ag.Predictor(sys.argv[1])(images, aligned=True)) == 4
"""
    )
    code = f"import sys; sys.argv = ['', {str(tmp_path)!r}]\n{code}"
    changed, weights, loss = python(code, KERAS_BACKEND="jax").split()
    assert changed == weights and 0 < float(loss) < 20

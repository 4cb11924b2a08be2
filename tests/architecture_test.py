"""What may import what, beyond the contracts of import-linter in pyproject.toml; what runs without TensorFlow."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import agegender

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(ROOT.glob("agegender/**/*.py"))


def imported_packages(path: pathlib.Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_only_data_imports_tensorflow_at_the_top_of_a_module() -> None:
    found = {
        path.parent.name
        for path in MODULES
        if imported_packages(path, top_level_only=True) & {"tensorflow", "tensorflow_datasets", "tf_keras"}
    }
    assert found == {"data"}


def test_builder_and_library_do_not_import_each_other() -> None:
    for path in MODULES:
        assert not imported_packages(path) & {"datasets", "utkface"}, path
    for path in (ROOT / "datasets").rglob("*.py"):
        if not path.name.endswith("_test.py"):
            assert not imported_packages(path) & {"agegender", "experiments"}, path


def test_every_package_has_an_init_file() -> None:
    assert all((path.parent / "__init__.py").exists() for path in MODULES)


def python(code: str, **environment: str) -> str:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_agegender_imports_no_heavy_package() -> None:
    heavy = {"tensorflow", "keras", "numpy", "tensorflow_datasets", "matplotlib", "PIL", "onnxruntime"}
    assert python(f"import sys, agegender; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_public_names_exist_and_have_docstrings() -> None:
    for name in set(agegender.__all__) - {"__version__"}:
        assert getattr(agegender, name).__doc__, name
    assert set(agegender._MODULES) | {"__version__"} == set(agegender.__all__) == set(dir(agegender))


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode_utkface'"):
        agegender.lode_utkface  # noqa: B018


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # an import now raises
import keras, numpy as np
import agegender as ag
assert keras.backend.backend() == "jax"
images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype="uint8")
targets = {"age": np.array([[1.], [20.], [40.], [80.]]), "gender": np.array([[0.], [1.], [0.], [1.]])}
"""


def test_model_and_report_work_on_jax_without_tensorflow() -> None:
    code = """
trunk = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.GlobalAveragePooling2D()])
print(ag.evaluate(ag.build_model(trunk), [(images, targets)]).count)
"""
    assert python(WITHOUT_TENSORFLOW + code, KERAS_BACKEND="jax").strip() == "4"


@pytest.mark.slow
def test_train_and_predict_work_on_jax_without_tensorflow(tmp_path: pathlib.Path) -> None:
    code = f"""
class Batches(keras.utils.PyDataset):
    def __len__(self): return 2
    def __getitem__(self, index): return images, targets

workdir = {str(tmp_path)!r}
model = ag.build_model(ag.vggface_trunk("vgg16", image_size=48, weights=None, trainable="all", seed=0, width=1 / 16))
before = [np.array(w) for w in model.get_weights()]
augmentation = ag.Augmentation(seed=1)
history = ag.train(model, Batches(), Batches(), workdir=workdir, epochs=1, augmentation=augmentation, verbose=0)
assert augmentation.step == 2
assert len(ag.Predictor(workdir)(images, aligned=True)) == 4
changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
print(sum(changed), len(changed), history.history["loss"][0])
"""
    changed, weights, loss = python(WITHOUT_TENSORFLOW + code, KERAS_BACKEND="jax").split()
    assert changed == weights and 0 < float(loss) < 20

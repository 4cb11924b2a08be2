"""The builder imports nothing of ours and repeats the constants of the schema; both must agree.

So must the released files, which were written with these names and units.
"""

import ast
import json
import pathlib
import zipfile

import onnxruntime

from agegender import schema

ROOT = pathlib.Path(__file__).parent.parent


def constants(path: pathlib.Path) -> dict:
    """The literal constants of a module, read without importing it: its builder would register a second time."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            try:
                found[node.target.id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_schema_and_builder_agree_on_splits_and_codings() -> None:
    labels = constants(ROOT / "datasets" / "utkface" / "labels.py")
    for name in ("SPLITS", "GENDERS", "RACES", "MIN_AGE", "MAX_AGE"):
        assert labels[name] == getattr(schema, name), name
    assert constants(ROOT / "datasets" / "utkface" / "splits.py")["FOLDS"] == schema.FOLDS
    assert constants(ROOT / "datasets" / "utkface" / "collect.py")["MAX_PIXELS"] == schema.MAX_PIXELS


def test_prepared_data_has_the_keys_of_the_schema(prepared: pathlib.Path) -> None:
    (file,) = (prepared / schema.DATASET).rglob("features.json")
    features = json.loads(file.read_text())["featuresDict"]["features"]
    labels = {schema.AGE, schema.GENDER, schema.RACE, schema.GROUP, schema.FOLD}
    conflicts = {schema.AGE_CONFLICT, schema.GENDER_CONFLICT}
    assert {schema.IMAGE, schema.FILE_NAME} | labels | conflicts <= set(features)


def test_released_model_has_the_names_and_units_of_the_schema() -> None:
    released = pathlib.Path(schema.__file__).parent / "released"
    assert (released / schema.CALIBRATION).is_file()
    outputs = onnxruntime.InferenceSession(released / "model.onnx").get_outputs()
    assert [output.name for output in outputs[:4]] == [*schema.HEADS, schema.AGE_LOW, schema.AGE_HIGH]
    config = json.loads(zipfile.ZipFile(released / schema.BEST_MODEL).read("config.json"))
    layers = {layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]}
    assert {schema.AGE, schema.GENDER} <= set(layers)
    distribution = layers[schema.AGE_DISTRIBUTION]
    assert distribution["units"] == schema.AGES == 117
    # The start is normal: its exponent is 0 at the mean and -1/2 one standard deviation away.
    start = distribution["bias_initializer"]["config"]["value"]
    assert start[round(schema.AGE_MEAN)] == 0 and start[round(schema.AGE_MEAN - schema.AGE_STD)] == -0.5
    assert (schema.IMAGE_SIZE, schema.MIN_IMAGE_SIZE) == (200, 48)  # of UTKFace's images; that VGG16 can pool

"""The builder imports nothing of ours and repeats the constants of the schema; both must agree."""

import ast
import json
import pathlib

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
    (file,) = prepared.rglob("features.json")
    features = json.loads(file.read_text())["featuresDict"]["features"]
    labels = {schema.AGE, schema.GENDER, schema.RACE, schema.GROUP, schema.FOLD}
    conflicts = {schema.AGE_CONFLICT, schema.GENDER_CONFLICT}
    assert {schema.IMAGE, schema.FILE_NAME} | labels | conflicts <= set(features)

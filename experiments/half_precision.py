"""A model in half the room: Keras's format, with every weight as float16."""

import io
import pathlib
import zipfile
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import keras

_WEIGHTS: Final = "model.weights.h5"  # in a .keras file


def store_in_half_precision(model: "keras.Model", path: pathlib.Path) -> None:
    """Saves a model in Keras's format with every weight as float16; it loads as the model that it is."""
    import h5py

    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO()
    with h5py.File(io.BytesIO(members[_WEIGHTS])) as full, h5py.File(weights, "w") as half:

        def store(name: str, item: Any) -> None:
            halved = isinstance(item, h5py.Dataset)
            made = half.create_dataset(name, data=item[...].astype("float16")) if halved else half.require_group(name)
            made.attrs.update(item.attrs)

        full.visititems(store)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, _WEIGHTS: weights.getvalue()}.items():
            archive.writestr(name, content)

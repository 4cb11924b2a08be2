"""Age and gender from faces: one VGGFace trunk, two heads, trained together.

The names below are the library. Each is imported when it is first used: TensorFlow takes seconds to load, and
`import agegender` should not.

Beside them there are modules for those who want more: `agegender.batch_norm` for trunks from random weights,
`agegender.beam` for millions of photographs, `agegender.losses` and `agegender.metrics` with what is made small and
what is measured, `agegender.processes` for several that train together, `agegender.schema` with keys, units and
codings, and `agegender.trunk_cache` for frozen layers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agegender.answers import Face, Photograph
    from agegender.augment import Augmentation
    from agegender.calibration import Calibration, calibrate, load_calibration
    from agegender.devices import fastest_dtype
    from agegender.evaluation import evaluate
    from agegender.export import export_model
    from agegender.input_pipeline import load_utkface
    from agegender.losses import joint_loss
    from agegender.measuring import Report, measure
    from agegender.model import build_model
    from agegender.optimizer import make_optimizer
    from agegender.pictures import PictureError, find_pictures, read_picture
    from agegender.predict import Predictor
    from agegender.report import read_predictions, write_report
    from agegender.synthetic import draw_face, write_faces
    from agegender.training import train
    from agegender.vggface import vggface_trunk

__version__ = "0.1.0"

_ROOMS = {
    "Augmentation": "augment",
    "Calibration": "calibration",
    "Face": "answers",
    "Photograph": "answers",
    "PictureError": "pictures",
    "Predictor": "predict",
    "Report": "measuring",
    "build_model": "model",
    "calibrate": "calibration",
    "draw_face": "synthetic",
    "evaluate": "evaluation",
    "export_model": "export",
    "fastest_dtype": "devices",
    "find_pictures": "pictures",
    "joint_loss": "losses",
    "load_calibration": "calibration",
    "load_utkface": "input_pipeline",
    "make_optimizer": "optimizer",
    "measure": "measuring",
    "read_picture": "pictures",
    "read_predictions": "report",
    "train": "training",
    "vggface_trunk": "vggface",
    "write_faces": "synthetic",
    "write_report": "report",
}

__all__ = [
    "Augmentation",
    "Calibration",
    "Face",
    "Photograph",
    "PictureError",
    "Predictor",
    "Report",
    "__version__",
    "build_model",
    "calibrate",
    "draw_face",
    "evaluate",
    "export_model",
    "fastest_dtype",
    "find_pictures",
    "joint_loss",
    "load_calibration",
    "load_utkface",
    "make_optimizer",
    "measure",
    "read_picture",
    "read_predictions",
    "train",
    "vggface_trunk",
    "write_faces",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'agegender' has no attribute {name!r}")
    return getattr(importlib.import_module(f"agegender.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__

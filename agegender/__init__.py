"""Age and gender from faces: one VGGFace trunk, two heads, trained together.

The names below are the library. Each is imported when it is first used: TensorFlow takes seconds to load, and
`import agegender` should not.

The packages contain more: `agegender.data`, `agegender.models`, `agegender.training`, `agegender.evaluation`,
`agegender.calibration`, `agegender.inference`, `agegender.export`, `agegender.server` and `agegender.synthetic`;
`agegender.schema` has keys, units and codings.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from agegender.models.registration import register_layers_with_keras

if TYPE_CHECKING:
    from agegender.calibration.calibration import Calibration, calibrate, load_calibration
    from agegender.data.pipeline import load_utkface
    from agegender.evaluation.evaluate import evaluate, evaluate_run
    from agegender.evaluation.photographs import evaluate_photographs
    from agegender.evaluation.predictions import read_predictions
    from agegender.evaluation.report import Report, measure
    from agegender.evaluation.report_page import write_report
    from agegender.export.export import export_model
    from agegender.inference.images import ImageError, find_images, read_image
    from agegender.inference.predictor import Predictor
    from agegender.inference.results import Face, Photograph
    from agegender.models.augmentation import Augmentation
    from agegender.models.dtypes import fastest_dtype
    from agegender.models.heads import build_model
    from agegender.models.losses import joint_loss
    from agegender.models.trunk import vggface_trunk
    from agegender.synthetic.faces import draw_face, write_faces
    from agegender.training.checkpoints import CheckpointPolicy
    from agegender.training.optimizer import make_optimizer
    from agegender.training.train import train

__version__ = "0.1.0"

_MODULES = {
    "Augmentation": "models.augmentation",
    "Calibration": "calibration.calibration",
    "CheckpointPolicy": "training.checkpoints",
    "Face": "inference.results",
    "Photograph": "inference.results",
    "ImageError": "inference.images",
    "Predictor": "inference.predictor",
    "Report": "evaluation.report",
    "build_model": "models.heads",
    "calibrate": "calibration.calibration",
    "draw_face": "synthetic.faces",
    "evaluate": "evaluation.evaluate",
    "evaluate_photographs": "evaluation.photographs",
    "evaluate_run": "evaluation.evaluate",
    "export_model": "export.export",
    "fastest_dtype": "models.dtypes",
    "find_images": "inference.images",
    "joint_loss": "models.losses",
    "load_calibration": "calibration.calibration",
    "load_utkface": "data.pipeline",
    "make_optimizer": "training.optimizer",
    "measure": "evaluation.report",
    "read_image": "inference.images",
    "read_predictions": "evaluation.predictions",
    "train": "training.train",
    "vggface_trunk": "models.trunk",
    "write_faces": "synthetic.faces",
    "write_report": "evaluation.report_page",
}
_NEED_TRAIN = (
    *("Augmentation", "build_model", "export_model", "fastest_dtype", "joint_loss", "load_utkface", "make_optimizer"),
    *("train", "vggface_trunk", "write_report"),
)

__all__ = [
    "Augmentation",
    "Calibration",
    "CheckpointPolicy",
    "Face",
    "ImageError",
    "Photograph",
    "Predictor",
    "Report",
    "__version__",
    "build_model",
    "calibrate",
    "draw_face",
    "evaluate",
    "evaluate_photographs",
    "evaluate_run",
    "export_model",
    "fastest_dtype",
    "find_images",
    "joint_loss",
    "load_calibration",
    "load_utkface",
    "make_optimizer",
    "measure",
    "read_image",
    "read_predictions",
    "train",
    "vggface_trunk",
    "write_faces",
    "write_report",
]


# So that `from agegender import *` and `pydoc agegender` do not fail; the names themselves say what to install.
if importlib.util.find_spec("keras") is None:
    __all__ = [name for name in __all__ if name not in _NEED_TRAIN]

register_layers_with_keras()  # so that `keras.saving.load_model` loads the library's models


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'agegender' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"agegender.{_MODULES[name]}"), name)
    except (ImportError, ValueError) as error:
        if reason := _explain_import_error(error):
            # Not an ImportError, so that `hasattr(agegender, "train")` says whether it can be used.
            raise AttributeError(f"`agegender.{name}` cannot be used: {reason}") from None
        raise


def _explain_import_error(error: Exception) -> str:
    """Says which package is missing; nothing for another error."""
    from agegender.environment import check_backend

    try:
        check_backend()
    except ImportError as backend_error:
        return str(backend_error)
    package = (getattr(error, "name", None) or "agegender").partition(".")[0]
    is_missing = isinstance(error, ModuleNotFoundError) and package != "agegender"
    return f"it needs {package}: pip install 'agegender[train]'" if is_missing else ""


class _MissingNames:
    """Explains `from agegender import train`, which would only say that there is no such name."""

    def find_spec(self, module: str, path: Any = None, target: Any = None) -> None:
        package, _, name = module.rpartition(".")
        if package == "agegender" and name in _MODULES:
            try:
                __getattr__(name)
            except AttributeError as error:
                raise ModuleNotFoundError(str(error)) from None  # with the name, Python would ignore it


# Last: Python asks it for a name that is neither an attribute nor a module.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != _MissingNames.__name__]
sys.meta_path.append(_MissingNames())


def __dir__() -> list[str]:
    return __all__

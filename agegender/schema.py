"""Feature keys, units, codings, splits and sizes that all packages share.

This module imports nothing. `datasets/utkface` repeats these values, because a data set must build without the
library; `tests/schema_test.py` compares them.
"""

from typing import Final

DATASET: Final = "utkface"
SPLITS: Final = ("train", "validation", "test")

# Keys of an example, of the targets and of the model's outputs.
IMAGE: Final = "image"  # uint8 RGB [height, width, 3], 0..255
AGE: Final = "age"  # float32 [batch, 1], years
GENDER: Final = "gender"  # float32 [batch, 1], target 0 = male and 1 = female, output the probability of female
RACE: Final = "race"  # index into RACES; to evaluate by, never an input
FILE_NAME: Final = "file_name"
GROUP: Final = "group"  # photograph group: near-identical images have one, in one split and one fold
FOLD: Final = "fold"  # 0..4, of a grouped cross-validation
AGE_CONFLICT: Final = "age_conflict"  # whether the group has several ages
GENDER_CONFLICT: Final = "gender_conflict"  # whether the group has both genders
HEADS: Final = (AGE, GENDER)
EMBEDDING: Final = "embedding"  # float32 [batch, width], numbers of a face recogniser; NaN where there are none
AGE_LOW: Final = "age_low"  # years, the ends of the calibrated interval
AGE_HIGH: Final = "age_high"

GENDERS: Final = ("male", "female")
RACES: Final = ("White", "Black", "Asian", "Indian", "Others")
BEST_MODEL: Final = "best.keras"  # in the folder of a run
CALIBRATION: Final = "calibration.json"  # beside the model
MIN_AGE: Final = 0
MAX_AGE: Final = 116
AGES: Final = MAX_AGE + 1  # length of a distribution over ages
AGE_DISTRIBUTION: Final = "age_distribution"  # the layer with the probability of each year
FOLDS: Final = 5

IMAGE_SIZE: Final = 200  # pixels a side, as UTKFace ships its aligned and cropped images
MAX_PIXELS: Final = 100_000_000  # of a stored image; 300 MB decoded
MIN_IMAGE_SIZE: Final = 48  # the five poolings of VGG16 leave a 1 x 1 map at 32; keras-vggface requires 48

# Mean and standard deviation of the ages of UTKFace in years, rounded: the units of the age head inside the model.
# Outside it answers in years; the age loss is divided by the square of the second.
AGE_MEAN: Final = 33.0
AGE_STD: Final = 20.0

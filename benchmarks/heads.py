r"""How fast heads learn on a trunk with random weights, by what stands before them and how their last layer starts.

    python -m benchmarks.heads --data_dir=...

The trunk is frozen and its features are computed once, so that the heads alone are compared, all from one seed and for
the same steps. Prints a row for each pair: gender accuracy and age MAE on validation images after each epoch.
"""

import itertools

from absl import app, flags, logging

from agegender.environment import set_environment

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_BATCHES = flags.DEFINE_integer("batches", 60, "Training batches of 64 images.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over them, 32 images a step.", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    set_environment()
    import keras
    import numpy as np

    import agegender as ag
    from agegender.models import losses
    from agegender.models.heads import AGE_DROPOUT, GENDER_DROPOUT, UNITS
    from agegender.schema import AGE_MEAN, AGE_STD

    layers = keras.layers
    norms = {"none": layers.Identity, "layer": layers.LayerNormalization, "batch": layers.BatchNormalization}

    def features(split: str, batches: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        dataset = ag.load_utkface(split, batch_size=64, image_size=48, data_dir=_DATA_DIR.value).take(batches)
        seen = [(np.asarray(trunk(images)), targets) for images, targets in dataset]
        targets = {head: np.concatenate([t[head] for _, t in seen]) for head in ("age", "gender")}
        return np.concatenate([values for values, _ in seen]), targets

    def head(values: keras.KerasTensor, dropout: tuple[float, ...], start: str) -> keras.KerasTensor:
        for width, rate in zip(UNITS, dropout, strict=True):
            values = layers.Dense(width, activation="relu", kernel_initializer="he_normal")(values)
            values = layers.Dropout(rate)(values)
        return layers.Dense(1, kernel_initializer=start)(values)

    def fit(norm: str, start: str) -> dict[str, list[float]]:
        keras.utils.set_random_seed(1)
        inputs = keras.Input(train[0].shape[1:])
        values = norms[norm](**({"momentum": 0.9} if norm == "batch" else {}))(inputs)
        age = layers.Rescaling(AGE_STD, AGE_MEAN)(head(values, AGE_DROPOUT, start))
        gender = layers.Activation("sigmoid")(head(values, GENDER_DROPOUT, start))
        model = keras.Model(inputs, {"age": age, "gender": gender})
        metrics = {"age": keras.metrics.MeanAbsoluteError("mae"), "gender": keras.metrics.BinaryAccuracy("accuracy")}
        model.compile(keras.optimizers.AdamW(3e-4), metrics=metrics, **losses.compile_losses(["age", "gender"]))
        return model.fit(*train, batch_size=32, epochs=_EPOCHS.value, validation_data=valid, verbose=0).history

    trunk = ag.vggface_trunk("vgg16", image_size=48, weights=None, trainable="none", seed=1)
    train, valid = features("train", _BATCHES.value), features("validation", 16)
    print(f"{len(train[0])} training and {len(valid[0])} validation images, AdamW 3e-4, {_EPOCHS.value} epochs of 32")
    for norm, start in itertools.product(norms, ("glorot_uniform", "zeros")):
        history = fit(norm, start)
        accuracy, mae = (
            " ".join(f"{value:.{places}f}" for value in history[key])
            for key, places in (("val_gender_accuracy", 3), ("val_age_mae", 2))
        )
        print(f"normalisation {norm:<6} last layer {start:<15} gender accuracy {accuracy}   age MAE {mae}", flush=True)


if __name__ == "__main__":
    app.run(main)

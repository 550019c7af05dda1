"""Keras on TensorFlow with the same networks: `compile` and `fit` on arrays that were normalised beforehand.

    python benchmarks/vision_keras.py --folder FOLDER --network mlp ...

`vision_throughput.py` starts it with whatever Python has TensorFlow installed; nothing here imports torch or trilab.
Adam at the same rate, the sum of loss and accuracy that `fit` always keeps, and Keras's own weights and order.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from vision_data import BATCH, CLASSES, LR, Pictures
from vision_gate import Gate


def network(name: str) -> Any:
    from keras import Input, Sequential, layers

    def conv(channels: int) -> Any:
        return layers.Conv2D(channels, 3, activation="relu")

    hidden = {
        "mlp": lambda: [Input((28, 28, 1)), layers.Flatten(), layers.Dense(128, activation="relu")],
        "mnist_cnn": lambda: [
            *(Input((28, 28, 1)), conv(32), layers.MaxPooling2D(), conv(64), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(64, activation="relu")),
        ],
        "cifar_cnn": lambda: [
            *(Input((32, 32, 3)), conv(32), layers.MaxPooling2D(), conv(64), layers.MaxPooling2D(), conv(64)),
            *(layers.Flatten(), layers.Dense(64, activation="relu")),
        ],
    }[name]()
    return Sequential([*hidden, layers.Dense(CLASSES, dtype="float32")])


def compiled(options: argparse.Namespace) -> Any:
    import keras

    keras.utils.set_random_seed(options.seed)
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if options.precision == "bf16-mixed" else "float32")
    model = network(options.network)
    model.compile(
        keras.optimizers.Adam(LR),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=options.steps_per_execution,
    )
    return model


def normalized(images: np.ndarray, pictures: Pictures) -> np.ndarray:
    """(n, channels, height, width) uint8 to (n, height, width, channels) float32."""
    return (images.transpose(0, 2, 3, 1) / np.float32(255) - pictures.mean) / pictures.std


def measure(model: Any, images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """Trains in one long `fit`, whose compiled step is called through a counter that sleeps between windows.

    A callback on batches would do as well, but Keras is slower with one. The clock stands between two epochs.
    """
    import keras

    gate = Gate(options.requests, options.replies)
    model.make_train_function()
    step = model.train_function
    left, busy, since, warm = options.warmup, 0.0, 0.0, False

    def counted(iterator: Any) -> Any:
        nonlocal left, busy, since, warm
        logs = step(iterator)
        left -= options.steps_per_execution
        if left <= 0:
            float(logs["loss"])  # waits for it
            busy += time.perf_counter() - since
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
            gate.reply(**({"seconds": busy, "peak_mb": peak} if warm else {"loss": None}))
            warm = True
            if not gate.wait():
                sys.exit()
            left, busy, since = options.steps, 0.0, time.perf_counter()
        return logs

    class Pause(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            nonlocal busy
            busy += time.perf_counter() - since

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            nonlocal since
            since = time.perf_counter()

    model.train_function = counted
    model.fit(images, labels, batch_size=BATCH, epochs=10**6, verbose=0, callbacks=[Pause()])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="with data.npz")
    parser.add_argument("--network", required=True, choices=("mlp", "mnist_cnn", "cifar_cnn"))
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    parser.add_argument("--accelerator", default="cpu", help="cpu, or cuda for the GPU that TensorFlow sees")
    parser.add_argument("--threads", type=int, help="of TensorFlow; default: all cores")
    parser.add_argument("--steps-per-execution", type=int, default=1, help="Keras's setting of that name")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the order")
    parser.add_argument("--epochs", type=int, help="train these, print the test accuracy, and measure nothing")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the first window")
    parser.add_argument("--steps", type=int, default=1, help="of a window")
    parser.add_argument("--requests", type=int, help="file descriptor")
    parser.add_argument("--replies", type=int, help="file descriptor")
    options = parser.parse_args()

    import tensorflow as tf

    if options.accelerator == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif not tf.config.list_physical_devices("GPU"):
        Gate(options.requests, options.replies).reply(unsupported="tensorflow sees no GPU")
        return
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    pictures = Pictures.read(options.folder)
    model = compiled(options)
    images = normalized(pictures.train, pictures)
    if not options.epochs:
        measure(model, images, pictures.train_labels, options)
        return
    model.fit(images, pictures.train_labels, batch_size=BATCH, epochs=options.epochs, verbose=0)
    _, accuracy = model.evaluate(normalized(pictures.test, pictures), pictures.test_labels, 2000, verbose=0)
    print(json.dumps({"accuracy": accuracy}))


if __name__ == "__main__":
    main()

"""A set of images by class folder, written by tests, and the data module of it."""

from pathlib import Path

import numpy as np
from PIL import Image

from trilab.data.vision.image_folder import ImageFolder

COUNTS = {"train": {"cat": 30, "dog": 20}, "test": {"cat": 8, "dog": 7}}


def write_image(path: Path, size: tuple[int, int] = (8, 6), seed: int = 0, mode: str = "RGB") -> np.ndarray:
    """A random image of (width, height), in a lossless format; its pixels as they were drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(array).save(path)
    return array


def write_set(root: Path) -> Path:
    """train and test with a folder for cats and one for dogs, PNG files of 8x6 pixels."""
    seed = 0
    for part, classes in COUNTS.items():
        for name, count in classes.items():
            for number in range(count):
                write_image(root / part / name / f"{number:03}.png", seed=seed)
                seed += 1
    return root


def image_folder(root: Path, **changes) -> ImageFolder:
    """The data module of that set, not set up; decoded images go to a folder beside it."""
    arguments = {"root": str(root), "train": "train", "test": "test", "test_fraction": 0.2, "split_seed": 1,
                 "mode": "rgb", "image_size": None, "storage": "memory", "memory_limit_mb": 100, "workers": 0,
                 "cache": str(root.parent / "cache"), "batch_size": 8, "eval_batch_size": 16, "validation": 10,
                 "mean": [0.5] * 3, "std": [0.25] * 3, "seed": 1}  # fmt: skip
    return ImageFolder(**{**arguments, **changes})


def ready(root: Path, **changes) -> ImageFolder:
    """The same, set up."""
    data = image_folder(root, **changes)
    data.prepare_data()
    data.setup("fit")
    return data

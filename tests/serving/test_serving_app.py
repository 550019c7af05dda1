"""What a served model answers, and what it says to a request that is wrong."""

import base64
import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from asgi import ask
from PIL import Image
from torch import Tensor, nn

from trilab.data.recsys.preprocessing import Preprocessing
from trilab.data.recsys.transforms import DenseTransform
from trilab.data.recsys.vocabulary import Vocabulary
from trilab.serving.app import make_app
from trilab.serving.images import ImageBytes
from trilab.serving.observations import Observations
from trilab.serving.package import Origin, Served
from trilab.serving.rows import IdRows, Pairs, RawRows

ORIGIN = Origin("0" * 32, "field/experiment", "field/model", "field/data", "0", "0")


class Of(nn.Module):
    """A program that is a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.function(*inputs)
        return result


def app_of(contract: Any, function: Any, max_rows: int = 8) -> Any:
    return make_app(Served(Of(function), contract, ORIGIN), max_rows)


@pytest.fixture
def cartpole() -> Any:
    """Q(s, 0) is the sum of an observation, and Q(s, 1) is 1."""
    return app_of(Observations("CartPole-v1", [4], "float32", 2, None),
                  lambda x: torch.stack([x.sum(1), torch.ones(len(x))], 1))  # fmt: skip


@pytest.fixture
def clicks() -> Any:
    """The logit is the id of `site` less that of `ad`, plus `price`."""
    texts = {"site": ["a.com", "b.com"], "ad": ["7"]}
    preprocessing = Preprocessing(
        categorical=tuple(texts),
        numeric=("price",),
        missing=("NA",),
        vocabularies=tuple(Vocabulary(pa.array(values, pa.large_string()), len(values)) for values in texts.values()),
        transform_numeric=DenseTransform(kind="none", mean=(0.0,), std=(1.0,), boundaries=()),
    )
    return app_of(RawRows(preprocessing), lambda ids, dense: ids[:, 0] - ids[:, 1] + dense[:, 0])


@pytest.fixture
def pixels() -> Any:
    """Two classes: the logits are the first pixel and the last."""
    return app_of(ImageBytes(1, 2, 3, 2), lambda x: x.flatten(1)[:, [0, -1]].float())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_observation_gives_an_action_and_the_value_of_each(cartpole: Any):
    content = {"observations": [[0.5, 0.25, 0.0, 0.0], [1.0, 1.0, 1.0, -0.5]]}
    assert ask(cartpole, "POST", "/predict", content) == (
        200,
        {"actions": [1, 0], "q_values": [[0.75, 1.0], [2.5, 1.0]]},
    )


def test_a_raw_row_gives_a_probability_through_the_vocabulary(clicks: Any):
    # Id 0 is for what was never seen, a missing value among it here; from 2 on in the vocabulary's order.
    rows = [
        {"site": "b.com", "ad": 7, "price": 0.5},  # 3 - 2 + 0.5
        {"site": "never seen", "ad": "7", "price": 0},  # 0 - 2
        {"site": "a.com", "ad": "NA", "price": -2},  # 2 - 0 - 2
        {"site": "a.com", "ad": None, "price": -2},
    ]
    status, answer = ask(clicks, "POST", "/predict", {"rows": rows})
    assert status == 200
    assert answer["probabilities"] == pytest.approx([sigmoid(1.5), sigmoid(-2), 0.5, 0.5], rel=1e-12)


def test_a_pair_gives_a_probability_with_what_is_known_of_each():
    ids = torch.tensor([[4], [5]]), torch.tensor([[0], [1], [2]])
    dense = torch.zeros(2, 0), torch.tensor([[0.5], [1.5], [2.5]])
    app = app_of(Pairs(ids, dense), lambda ids, dense: ids.float().sum(1) + dense.sum(1))
    # user 1, item 2: 1 + 2 + 5 + 2 + 2.5
    status, answer = ask(app, "POST", "/predict", {"rows": [{"user": 1, "item": 2}]})
    assert (status, answer["probabilities"]) == (200, [pytest.approx(sigmoid(12.5), rel=1e-12)])
    assert ask(app, "POST", "/predict", {"rows": [{"user": 2, "item": 0}]}) == (
        422,
        {"detail": "rows[0].user: input should be less than 2. Given: 2."},
    )


def test_an_image_gives_class_probabilities_from_bytes_and_from_a_file(pixels: Any):
    array = np.array([[3, 0, 0], [0, 0, 1]], np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    status, answer = ask(pixels, "POST", "/predict", {"images": [array.tolist(), [array.tolist()], png]})
    assert status == 200
    assert answer["classes"] == [0, 0, 0]
    assert answer["probabilities"] == pytest.approx(np.array([[sigmoid(2), sigmoid(-2)]] * 3), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the request is no valid JSON."),
        ({}, "observations: not given."),
        ({"observation": [[0, 0, 0, 0]]}, "observation: no such key."),
        ({"observations": []}, "observations: list should have at least 1 item after validation, not 0."),
        ({"observations": [[0, 0, 0, 0], [0, 0, 0]]}, "observations[1]: list should have at least 4 items"),
        ({"observations": [[0] * 4] * 9}, "observations: list should have at most 8 items after validation, not 9."),
        ({"observations": [[0, 0, "far", 0]]}, "observations[0][2]: input should be a valid number"),
        (b'{"observations": [[0, 0, NaN, 0]]}', "observations[0][2]: expected a finite number. Given: nan."),
        ({"observations": [[0, 0, 1e300, 0]]}, "observations[0]: a value that is no finite float32."),
    ],
)
def test_a_wrong_observation_is_answered_with_a_sentence(cartpole: Any, content: Any, message: str):
    status, answer = ask(cartpole, "POST", "/predict", content)
    assert status == 422
    assert answer["detail"].startswith(message), answer
    assert "\n" not in answer["detail"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"site": "a", "ad": "7"}, "rows[0].price: not given, and null means a missing value."),
        ({"site": "a", "ad": "7", "pric": 1}, "rows[0].pric: no such column. Did you mean 'price'?"),
        ({"site": "a", "ad": "7", "price": "much"}, "rows[0].price: input should be a valid number"),
        ({"site": ["a"], "ad": "7", "price": 1}, "rows[0].site"),
    ],
)
def test_a_wrong_row_is_answered_with_a_sentence(clicks: Any, row: Any, message: str):
    status, answer = ask(clicks, "POST", "/predict", {"rows": [row]})
    assert status == 422
    assert answer["detail"].startswith(message), answer


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0, 0], [0, 0]], "images[0]: shape (2, 2), expected (1, 2, 3)."),
        ([[0, 0, 0], [0, 0]], "images[0]: lists of unequal lengths, expected shape (1, 2, 3)."),
        ([[0, 0, 0], [0, 0, 256]], "images[0]: expected whole numbers from 0 to 255."),
        ([[0, 0, 0], [0, 0, 0.5]], "images[0]: expected whole numbers from 0 to 255."),
        ("no base64!", "images[0]: a text that is no PNG file in base64."),
        (base64.b64encode(b"GIF89a").decode(), "images[0]: a text that is no PNG file in base64."),
        (None, "images[0]: shape (), expected (1, 2, 3)."),
    ],
)
def test_a_wrong_image_is_answered_with_a_sentence(pixels: Any, image: Any, message: str):
    assert ask(pixels, "POST", "/predict", {"images": [image]}) == (422, {"detail": message})


def test_a_file_of_another_size_is_not_unpacked(pixels: Any):
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    assert ask(pixels, "POST", "/predict", {"images": [png]}) == (
        422,
        {"detail": "images[0]: 4x4 pixels, expected 3x2."},
    )


def test_states_are_numbers_of_states():
    app = app_of(Observations("Taxi-v3", [], "int64", 2, 3), lambda x: torch.stack([x, 2 - x], 1).float())
    assert ask(app, "POST", "/predict", {"observations": [0, 2]})[1]["actions"] == [1, 0]
    status, answer = ask(app, "POST", "/predict", {"observations": [3]})
    assert (status, answer) == (422, {"detail": "observations[0]: input should be less than 3. Given: 3."})


def test_columns_may_have_any_names():
    app = app_of(IdRows(["class", "a b", "model_x"], [2, 2, 2], ["1st"]), lambda ids, dense: ids.sum(1) + dense[:, 0])
    row = {"class": 1, "a b": 1, "model_x": 0, "1st": -2.0}
    assert ask(app, "POST", "/predict", {"rows": [row]}) == (200, {"probabilities": [0.5]})
    status, answer = ask(app, "POST", "/predict", {"rows": [{**row, "1st": None}]})
    assert (status, answer) == (422, {"detail": "1st: a missing value, or one that is no finite float32."})


def test_health_and_docs(cartpole: Any, pixels: Any):
    status, health = ask(cartpole, "GET", "/health")
    assert status == 200
    assert health["status"] == "ok"
    assert health["run_id"] == ORIGIN.run_id
    assert ask(cartpole, "GET", "/docs")[0] == 200
    schema = ask(cartpole, "GET", "/openapi.json")[1]["components"]["schemas"]
    assert schema["ObservationsRequest"]["properties"]["observations"]["items"]["maxItems"] == 4
    image = ask(pixels, "GET", "/openapi.json")[1]["components"]["schemas"]["ImagesRequest"]["properties"]["images"]
    assert image["items"]["anyOf"][1]["items"]["items"]["maxItems"] == 3

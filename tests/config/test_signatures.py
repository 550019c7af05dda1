"""Signatures read from source say what Python's own introspection says of the imported class."""

import inspect
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt

from trilab.config.signatures import UnknownTarget, signature


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.Adam",
        "torch.optim.SGD",
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "trilab.models.schedules.Cosine",
        "trilab.models.rl.dqn.DQN",
        "trilab.runtime.Accelerator",
    ],
)
def test_parameters_are_those_of_the_imported_class(target: str) -> None:
    module, _, name = target.rpartition(".")
    imported = getattr(__import__(module, fromlist=[name]), name)
    real = {
        key: parameter
        for key, parameter in inspect.signature(imported).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    read = signature(target)
    assert set(read.parameters) == set(real)
    assert read.defaults == {key for key, p in real.items() if p.default is not inspect.Parameter.empty}


def test_annotations_are_evaluated(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somewhere.py").write_text(
        "import not_installed\n"
        "class Base:\n"
        "    def __init__(self, width: PositiveInt, kind: Literal['a', 'b'] = 'a', other: Unknown = None): ...\n"
        "class Thing(Base):\n"
        "    '''Inherits its constructor.'''\n"
        "def make(x: 'int | None', **rest): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    thing = signature("somewhere.Thing")
    assert thing.parameters["width"] == Annotated[int, Gt(0)]
    assert thing.parameters["kind"] == Literal["a", "b"]
    assert thing.parameters["other"] is Any
    assert not thing.accepts_any_key
    make = signature("somewhere.make")
    assert make.parameters["x"] == int | None
    assert make.accepts_any_key


@pytest.mark.parametrize(
    ("target", "missing", "sibling"),
    [
        ("trilab.models.schedules.Cosin", "trilab.models.schedules.Cosin", "Cosine"),
        ("trilab.modles.schedules.Cosine", "trilab.modles", "models"),
        ("nowhere.Thing", "nowhere", None),
        ("Thing", "Thing", None),
    ],
)
def test_an_unknown_target_says_what_is_missing(target: str, missing: str, sibling: str | None) -> None:
    with pytest.raises(UnknownTarget) as raised:
        signature(target)
    assert raised.value.missing == missing
    assert sibling is None or sibling in raised.value.siblings

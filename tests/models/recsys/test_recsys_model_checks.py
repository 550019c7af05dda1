"""What is wrong with a recommender's configuration is found before torch is imported."""

import subprocess
import sys

import pytest

from trilab.config.signatures import signature
from trilab.errors import ConfigError
from trilab.models.recsys import checks

NETWORK = {"_target_": "trilab.models.recsys.fm.FactorizationMachine", "_partial_": True}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"network": None}, "model.network=null: expected a network to build"),
        ({"network": 5}, "model.network=5: expected a network to build"),
        ({"network": {"dim": 3}}, "expected a network to build, with a _target_"),
        ({"network": {"_target_": "a.B"}}, "model.network._partial_: expected true"),
    ],
)
def test_a_recommender_needs_a_network_that_waits_for_the_data(values, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        checks.CHECKS["Recommender"](values)
    checks.CHECKS["Recommender"]({"network": NETWORK})


@pytest.mark.parametrize("name", ["NCFMLP", "NeuMF"])
def test_a_tower_must_be_halved_between_user_and_item(name):
    checks.CHECKS[name]({"factors": 7, "layers": 1})
    checks.CHECKS[name]({"factors": 8, "layers": 0})
    with pytest.raises(ConfigError, match="is odd"):
        checks.CHECKS[name]({"factors": 7, "layers": 0})
    assert checks.tower_sizes(8, 3) == [64, 32, 16, 8]


def test_crosses_are_pairs():
    checks.CHECKS["WideDeep"]({"crosses": [["a", "b"], ["a", "c"]]})
    with pytest.raises(ConfigError, match=r"\[a, a\] is no pair"):
        checks.CHECKS["WideDeep"]({"crosses": [["a", "a"]]})
    with pytest.raises(ConfigError, match=r"\[b, a\] stands there twice"):
        checks.CHECKS["WideDeep"]({"crosses": [["a", "b"], ["b", "a"]]})


@pytest.mark.parametrize("target", sorted(checks._OF_USER_AND_ITEM))
def test_data_known_to_have_no_users_are_refused_early(target):
    rule = checks.CHECKS_WITH_DATA["Recommender"]
    data = {"_target_": "trilab.data.recsys.synthetic.SyntheticClicks"}
    with pytest.raises(ConfigError, match="data=recsys/synthetic has neither"):
        rule({"network": {"_target_": target, "_partial_": True}}, data)
    rule({"network": NETWORK}, data)
    rule({"network": {"_target_": target}}, {"_target_": "somebody.Elses"})


@pytest.mark.parametrize("missing", ["user", "item"])
def test_a_table_whose_users_are_not_named_is_refused_early(missing):
    rule = checks.CHECKS_WITH_DATA["Recommender"]
    model = {"network": {"_target_": "trilab.models.recsys.mf.MatrixFactorization", "_partial_": True}}
    data = {"_target_": "trilab.data.recsys.tables.ClickTable", "categorical": ["a", "b"], "user": "a", "item": "b"}
    rule(model, data)
    with pytest.raises(ConfigError, match=rf"data.{missing}=null: .* Name the column, one of a, b, or choose"):
        rule(model, {**data, missing: None})


def test_crosses_of_a_table_are_of_its_columns():
    rule = checks.CHECKS_WITH_DATA["Recommender"]
    network = {"_target_": "trilab.models.recsys.wide_deep.WideDeep", "_partial_": True, "crosses": [["user", "price"]]}
    data = {"_target_": "trilab.data.recsys.tables.ClickTable", "categorical": ["user", "color"], "dense": ["price"]}
    rule({"network": network}, {**data, "dense_transform": "bucketize"})
    with pytest.raises(ConfigError, match=r"the data have no field price. Their fields are user, color."):
        rule({"network": network}, {**data, "dense_transform": "standardize"})
    with pytest.raises(ConfigError, match=r"no field colour. Did you mean 'color'\?"):
        rule({"network": {**network, "crosses": [["user", "colour"]]}}, data)


def test_the_classes_that_are_named_exist():
    for target in (*checks._OF_USER_AND_ITEM, checks._WIDE_DEEP, checks._SYNTHETIC, checks._CLICK_TABLE):
        assert signature(target).parameters


def test_checking_imports_no_torch():
    code = "import sys, trilab.models.recsys.checks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"

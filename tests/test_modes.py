"""Training and evaluation mode: each module gets back its own, frozen ones too."""

import pytest
from torch import nn

from pso_lib.modes import evaluating, modes_kept


def network() -> nn.Sequential:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 3))
    model[0].eval()  # frozen on purpose
    return model


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("context, within", [(evaluating, [False] * 4), (modes_kept, [True, False, True, True])])
def test_modes_come_back(context, within, fails):
    model = network()
    before = [module.training for module in model.modules()]
    try:
        with context(model):
            assert [module.training for module in model.modules()] == within
            model.train(), model[2].eval()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in model.modules()] == before == [True, False, True, True]

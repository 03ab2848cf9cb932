"""The README's code runs as it stands."""

import re
import textwrap
from pathlib import Path

import torch

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf8")


def test_the_code_for_a_project_of_your_own(capsys):
    blocks = [textwrap.dedent(code) for code in re.findall(r"(?ms)^ *```python\n(.*?)^ *```", README)]
    assert len(blocks) == 2
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    mine = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "criterion": torch.nn.CrossEntropyLoss(),
        "batches": [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(3)],
    }
    for block in blocks:
        exec(block, mine)
    assert float(re.findall(r"[\d.]+e-\d+", capsys.readouterr().out)[0]) < 1e-12
    assert mine["guard"].steps == 3 and mine["recorder"].steps == [0]

"""Other people's training, every way of it against every tool: the right answer, or a refusal that names the remedy.

Right means: as an independent computation has it, with numpy's SVD, a plain loop, ``torch.autograd`` row by row, or the
same run without interruption.
"""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss

from pso_lib.analysis.jacobian import jacobian, kink_margin
from pso_lib.analysis.recorder import Recorder
from pso_lib.analysis.singularity import ntk_gram, ntk_top_eigenvalue
from pso_lib.nn.init import seeded
from pso_lib.smoothing import AtSteps, Detector, Guard
from pso_lib.train.optimizers import ChainedOptimizer, adamw, muon, sgd

TOOLS = ("guard", "recorder", "jacobian", "ntk", "optimizers")
ANSWERED = "answered"
TABLE = {  # a column for each of TOOLS
    "group_norm": (ANSWERED,) * 5,
    "batch_norm": (
        ANSWERED,
        ANSWERED,
        ANSWERED + " in evaluation mode; refused in training mode, where rows mix",
        ANSWERED,
        ANSWERED,
    ),
    "layer_norm": (ANSWERED,) * 5,
    "lstm": (ANSWERED,) * 5,
    "transformer": (ANSWERED,) * 5,
    "tied": (ANSWERED, ANSWERED, ANSWERED + " from the embedding on; refused for tokens", ANSWERED, ANSWERED),
    "sparse": (
        ANSWERED,
        ANSWERED,
        ANSWERED + " from the embedding on; refused for tokens",
        ANSWERED,
        ANSWERED + " by sgd and by SparseAdam in a chain; refused by adamw and muon, as torch's take none",
    ),
    "head_replaced": (
        ANSWERED + "; refused where the name is gone",
        ANSWERED + "; refused where the name is gone",
        ANSWERED,
        ANSWERED,
        ANSWERED + "; refused by a chain, whose parts take the new group",
    ),
    "frozen_later": (ANSWERED,) * 5,
    "ddp": (ANSWERED,) * 5,
    "compiled": (ANSWERED,) * 5,
    "autocast": (ANSWERED,) * 5,
    "accumulation": (ANSWERED,) * 5,
    "lbfgs": (
        ANSWERED + " before the step; refused in the closure, which runs many times",
        ANSWERED + " before the step; refused in the closure, which runs many times",
        ANSWERED,
        ANSWERED,
        "refused: LBFGS is not one of several, for its closure runs many times",
    ),
    "half": (ANSWERED,) * 5,
    "channels_last": (ANSWERED,) * 5,
    "resumed": (ANSWERED,) * 5,
}
CLASSES, N = 3, 6


def draw(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def array(tensor) -> np.ndarray:
    """A copy on the host, in float64."""
    tensor = tensor.detach()
    return (tensor.to_dense() if tensor.is_sparse else tensor).double().numpy().copy()


def copies(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Net(nn.Module):
    def __init__(self, stem, layers, head):
        super().__init__()
        self.stem, self.layers, self.head = stem, nn.Sequential(*layers), head

    def forward(self, x):
        return self.inner(self.stem(x))

    def inner(self, h):
        return self.head(self.layers(h))


class Mean(nn.Module):
    """Over the tokens or pixels of each example, then an affine map."""

    def __init__(self, axes, dim):
        super().__init__()
        self.axes, self.affine = axes, nn.Linear(dim, CLASSES)

    def forward(self, h):
        return self.affine(h.mean(self.axes))


class Training:
    """One way of training; its methods named as in ``TOOLS`` check one tool each. This one is the plainest."""

    inputs, dtype, tolerance = 5, torch.float64, 1e-9
    matrices = {"stem.weight": 1, "layers.1.weight": 1, "layers.3.weight": 1, "head.weight": 1}  # and how many each is
    parts = {1: ("",), 3: ("[query]", "[key]", "[value]"), 4: ("[input]", "[forget]", "[cell]", "[output]")}
    prefix = shown = ""  # of parameters, and of their matrices as the tools name them
    undecayed = ()  # of those with two axes or more

    def __init__(self):
        plain = self.build()
        with torch.no_grad():
            for i, p in enumerate(plain.parameters()):
                p.copy_(draw(*p.shape, seed=i) / max(1, p.shape[-1]) ** 0.5)
        self.plain = plain.to(self.dtype)
        self.model = self.wrap(self.plain)
        self.x, self.y = self.data()

    def build(self) -> nn.Module:
        layers = [nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh()]
        return Net(nn.Linear(self.inputs, 8), layers, nn.Linear(6, CLASSES))

    def wrap(self, model):
        return model

    def data(self):
        return draw(N, self.inputs, seed=101).to(self.dtype), draw(N, CLASSES, seed=102).to(self.dtype)

    # A step as it is written there

    def optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.05)

    def backward(self):
        self.model.zero_grad()
        mse_loss(self.model(self.x), self.y).backward()

    def step(self, optimizer, guard=None, recorder=None) -> bool:
        self.backward()
        if recorder is not None:
            recorder.step()
        go = guard is None or guard.step()
        if go:
            optimizer.step()
        return go

    def later(self, optimizer) -> None:
        """What happens after the first step."""

    # What is known of it without the library

    def names(self) -> list[str]:
        return [f"{self.shown}{name}{part}" for name, count in self.matrices.items() for part in self.parts[count]]

    def cut(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The matrices in the parameters, by the names of the tools."""
        found = {}
        for name, count in self.matrices.items():
            value = values[self.prefix + name]
            rows = np.split(value.reshape(len(value), -1), count)
            found |= {f"{self.shown}{name}{part}": row for part, row in zip(self.parts[count], rows, strict=True)}
        return found

    def weights(self) -> dict[str, np.ndarray]:
        return self.cut({name: array(p) for name, p in self.model.named_parameters()})

    def gradients(self) -> dict[str, np.ndarray]:
        return self.cut({name: array(p.grad) for name, p in self.model.named_parameters() if p.grad is not None})

    # The tools

    def guard(self):
        optimizer = self.optimizer()
        guard = Guard(self.model, method="clip", k=2, trigger=AtSteps([2]))
        assert self.step(optimizer, guard)
        self.later(optimizer)
        before, matrices = copies(self.model), self.weights()
        assert not self.step(optimizer, guard)
        (record,) = guard.interventions
        assert (record["step"], record["skipped"]) == (2, True)
        assert [w["name"] for w in record["weights"]] == self.names()
        live = [p for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        assert all(np.isfinite(array(p.grad)).all() for p in live)
        assert record["norm"] == pytest.approx(sum(np.linalg.norm(array(p.grad)) for p in live), rel=self.tolerance)
        after = self.weights()
        for w in record["weights"]:
            U, s, Vh = np.linalg.svd(matrices[w["name"]], full_matrices=False)
            assert w["stable_rank_before"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=max(self.tolerance, 1e-6))
            s[0] = s[1]
            self.close(after[w["name"]], (U * s) @ Vh)
            self.close(np.linalg.svd(after[w["name"]], compute_uv=False), s)
        others = {name for name in before if name.removeprefix(self.prefix) not in self.matrices}
        assert len(before) - len(others) == len(self.matrices)
        assert all(torch.equal(self.model.get_parameter(name), before[name]) for name in others)
        assert self.step(optimizer, guard)  # and on it goes
        assert any(not np.allclose(W, after[name]) for name, W in self.weights().items())
        return "answered"

    def recorder(self):
        bystander = type(self)()
        recorder = Recorder(self.model, ["stable_rank", "top_singular_value", "gradient_norm", "sje"], every=1)
        optimizer, alone = self.optimizer(), bystander.optimizer()
        self.step(optimizer, recorder=recorder), bystander.step(alone)
        self.later(optimizer), bystander.later(alone)
        matrices = self.weights()
        self.step(optimizer, recorder=recorder), bystander.step(alone)
        for name, G in self.looked_at().items():
            U, s, Vh = np.linalg.svd(matrices[name], full_matrices=False)
            rank = (s**2).sum() / s[0] ** 2
            pairs = np.einsum("ir,ij,rj->r", U, G, Vh) ** 2 if G is not None else None
            expected = {
                "stable_rank": rank,
                "top_singular_value": s[0],
                "gradient_norm": None if G is None else np.linalg.norm(G),
                "sje": None if G is None else pairs[: math.floor(rank)].sum() / pairs.sum(),
            }
            for quantity, value in expected.items():
                close = None if value is None else pytest.approx(value, rel=max(self.tolerance, 1e-6))
                assert recorder.values[quantity][name][1] == close, (quantity, name)
        assert list(recorder.values["stable_rank"]) == list(self.looked_at())
        mine, theirs = self.model.state_dict(), bystander.model.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        return "answered"

    def looked_at(self) -> dict[str, np.ndarray | None]:
        """The gradients of the matrices that a recorder of this training follows."""
        return self.gradients()

    def points(self):
        """A function of rows that has a Jacobian, the rows, and the weights to differentiate further by."""
        return self.model, self.x, self.plain.get_parameter(list(self.matrices)[-1])

    def jacobian(self):
        self.step(optimizer := self.optimizer()), self.later(optimizer)
        self.model.eval()
        f, rows, W = self.points()
        expected = torch.stack([by_rows(f, row) for row in rows])
        self.close(array(jacobian(f, rows)), array(expected))
        J = jacobian(f, rows, create_graph=True)
        self.close(array(J), array(expected))
        (found,) = torch.autograd.grad(J.square().sum(), W)
        penalty = sum(by_rows(f, row, create_graph=True).square().sum() for row in rows)
        self.close(array(found), array(torch.autograd.grad(penalty, W)[0]))
        return "answered"

    def ntk(self):
        self.step(optimizer := self.optimizer()), self.later(optimizer)
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        modes = [module.training for module in self.model.modules()]
        gram, top = self.measured_ntk()
        assert [module.training for module in self.model.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in self.model.state_dict().items())
        self.model.eval()
        chosen = [self.model.get_parameter(self.prefix + name) for name in self.matrices]
        rows = []
        for i in range(N):
            gradients = torch.autograd.grad(self.loss(self.model(self.x[i : i + 1]), self.y[i : i + 1]), chosen)
            row = np.concatenate([array(g).ravel() for g in gradients])
            rows.append(row / np.linalg.norm(row))
        self.close(array(gram), np.array(rows) @ np.array(rows).T)
        self.close(np.array(top), np.linalg.eigvalsh(np.array(rows) @ np.array(rows).T)[-1])
        return "answered"

    def loss(self, out, y):
        return mse_loss(out, y)

    def measured_ntk(self):
        arguments = (self.model, self.loss, self.x, self.y)
        return ntk_gram(*arguments, chunk_size=4), ntk_top_eigenvalue(*arguments)

    def optimizers(self):
        for make, rule in ((adamw, AdamW), (sgd, SGD), (muon, Muon)):
            type(self)().follow(make, rule)
        return "answered"

    def follow(self, make, rule):
        """Each step of the library's optimiser against one written out, on a schedule."""
        optimizer = make(self.model, 0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        rules = self.rules(rule)
        for step in range(3):
            before = {name: array(p) for name, p in self.model.named_parameters()}
            self.step(optimizer)
            for name, p in self.model.named_parameters():
                expected = before[name]
                if p.grad is not None and p.requires_grad:
                    expected = rules[name].step(expected, array(p.grad), 0.01 * 0.5**step)
                moved = np.linalg.norm(expected - before[name])
                allowed = max(rules[name].accuracy, self.tolerance) * moved + self.tolerance * np.linalg.norm(expected)
                assert np.linalg.norm(array(p) - expected) <= allowed, (make.__name__, step, name)
            schedule.step()
            if step == 0:
                self.later(optimizer)
                rules = self.rules(rule) | rules

    def rules(self, rule):
        whole = {self.prefix + name for name in self.matrices}
        found = {}
        for name, p in self.model.named_parameters():
            kind = rule
            if rule is Muon and not (name in whole and name.removeprefix(self.prefix).startswith("layers.")):
                kind = AdamW
            found[name] = kind(p.ndim >= 2 and name.removeprefix(self.prefix) not in self.undecayed)
        return found

    def close(self, found, expected):
        np.testing.assert_allclose(found, expected, rtol=self.tolerance, atol=self.tolerance * np.abs(expected).max())


def by_rows(f, row, create_graph=False):
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        return torch.autograd.functional.jacobian(lambda v: f(v[None])[0], row, create_graph=create_graph)


# The optimisers, written out


class SGD:
    accuracy = 1e-9

    def __init__(self, decays):
        self.decay, self.t, self.m, self.v = 0.1 * decays, 0, 0.0, 0.0

    def step(self, p, g, lr):
        self.m = 0.9 * self.m + g
        return p - lr * self.m


class AdamW(SGD):
    def step(self, p, g, lr):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.95 * self.v + 0.05 * g**2
        size = np.sqrt(self.v / (1 - 0.95**self.t)) + 1e-8
        return p * (1 - lr * self.decay) - lr * self.m / (1 - 0.9**self.t) / size


class Muon(SGD):
    accuracy = 0.05  # torch computes the polar factor in bfloat16

    def step(self, p, g, lr):
        self.m = 0.95 * self.m + 0.05 * g
        M = torch.tensor((0.05 * g + 0.95 * self.m).reshape(len(g), -1)).bfloat16()
        tall = M.shape[0] > M.shape[1]
        M = M.T if tall else M
        M = M / M.norm()
        for _ in range(5):  # the iteration of Jordan et al. (2024), in their precision: tiny singular values are noise
            A = M @ M.T
            M = torch.addmm(M, torch.addmm(A, A, A, beta=-4.7750, alpha=2.0315), M, beta=3.4445)
        M = array(M.T if tall else M).reshape(p.shape)
        return p * (1 - lr * self.decay) - lr * 0.2 * max(len(g), g[0].size) ** 0.5 * M


# The ways of training


class GroupNorm(Training):
    """Pictures as high as there are channels, so that an axis taken for another would not be noticed by its length."""

    inputs = 16
    matrices = {"stem.1.weight": 1, "layers.2.weight": 1, "head.affine.weight": 1}

    def build(self):
        layers = [nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()]
        stem = nn.Sequential(nn.Unflatten(-1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1))
        return Net(stem, layers, Mean((-2, -1), 4))


class BatchNorm(Training):
    """The first one frozen, weights and statistics, as in fine-tuning."""

    matrices = {"stem.weight": 1, "layers.2.weight": 1, "head.weight": 1}

    def build(self):
        layers = [nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Tanh()]
        model = Net(nn.Linear(self.inputs, 8), layers, nn.Linear(7, CLASSES))
        model.layers[0].eval().requires_grad_(False)
        return model

    def jacobian(self):
        """In training mode each row's output depends on the others."""
        with pytest.raises(ValueError, match="'layers.3', a BatchNorm1d in training mode.*model.eval()"):
            jacobian(self.model, self.x)
        return super().jacobian() + ", and refused"


class LayerNorm(Training):
    inputs = 16
    matrices = {"stem.1.weight": 1, "layers.2.weight": 1, "layers.6.weight": 1, "head.weight": 1}
    undecayed = ("layers.0.weight", "layers.0.bias", "layers.3.weight", "layers.3.bias")

    def build(self):
        layers = [nn.LayerNorm((4, 4, 4)), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.LayerNorm((3, 2, 2)), nn.Flatten(-3)]
        layers += [nn.LayerNorm(12), nn.Linear(12, 6), nn.Tanh()]
        stem = nn.Sequential(nn.Unflatten(-1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1))
        return Net(stem, layers, nn.Linear(6, CLASSES))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, num_layers=2, batch_first=True)

    def forward(self, h):
        return self.lstm(h)[0]


class LSTM(Training):
    inputs = 12
    matrices = {f"layers.0.lstm.weight_{kind}_l{i}": 4 for i in (0, 1) for kind in ("ih", "hh")} | {
        "head.affine.weight": 1
    }

    def build(self):
        return Net(nn.Unflatten(-1, (3, 4)), [Recurrent()], Mean(-2, 3))


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, batch_first=True)

    def forward(self, h):
        return self.transformer(h, h.flip(-2))


class Transformer(Training):
    inputs = 12
    _inside = "layers.0.transformer."
    matrices = {
        f"{_inside}encoder.layers.0.self_attn.in_proj_weight": 3,
        f"{_inside}encoder.layers.0.self_attn.out_proj.weight": 1,
        f"{_inside}encoder.layers.0.linear1.weight": 1,
        f"{_inside}encoder.layers.0.linear2.weight": 1,
        f"{_inside}decoder.layers.0.self_attn.in_proj_weight": 3,
        f"{_inside}decoder.layers.0.self_attn.out_proj.weight": 1,
        f"{_inside}decoder.layers.0.multihead_attn.in_proj_weight": 3,
        f"{_inside}decoder.layers.0.multihead_attn.out_proj.weight": 1,
        f"{_inside}decoder.layers.0.linear1.weight": 1,
        f"{_inside}decoder.layers.0.linear2.weight": 1,
        "head.affine.weight": 1,
    }

    def build(self):
        return Net(nn.Unflatten(-1, (3, 4)), [Translator()], Mean(-2, 4))


class Tokens(Training):
    """Tokens have no Jacobian: it is that of what follows the embedding."""

    sparse = False

    def data(self):
        tokens = torch.randint(0, CLASSES, (N, 4), generator=seeded(101))
        return tokens, draw(N, CLASSES, seed=102)

    def points(self):
        rows = self.plain.stem(self.x).flatten(1).detach()
        return self.plain.inner, rows, self.plain.layers[1].weight

    def jacobian(self):
        with pytest.raises(ValueError, match="x has dtype torch.int64.*embedding"):
            jacobian(self.model, self.x)
        return super().jacobian() + ", and refused"


class Tied(Tokens):
    """An embedding tied to the readout, and two hidden layers that are one."""

    matrices = {"layers.1.weight": 1}

    def build(self):
        table, head, hidden = nn.Embedding(CLASSES, 8), nn.Linear(8, CLASSES), nn.Linear(8, 8)
        head.weight = table.weight
        layers = [nn.Unflatten(-1, (4, 8)), hidden, nn.Tanh(), hidden, nn.Tanh(), Pool(-2)]
        return Net(nn.Sequential(table, nn.Flatten(1)), layers, head)


class Pool(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, h):
        return h.mean(self.axis)


class Sparse(Tokens):
    matrices = {"layers.1.weight": 1, "layers.3.weight": 1, "head.weight": 1}

    def build(self):
        layers = [nn.Unflatten(-1, (4, 8)), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), Pool(-2)]
        return Net(nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Flatten(1)), layers, nn.Linear(6, CLASSES))

    def optimizers(self):
        """Torch's AdamW and Muon take no sparse gradients; SparseAdam does, chained to one of the others."""
        for make in (adamw, muon):
            with pytest.raises(ValueError, match="'stem.0.weight'.*sparse.*SparseAdam.*ChainedOptimizer"):
                make(self.model, 0.01)
        self.follow(sgd, SGD)
        chained, apart = type(self)(), type(self)()
        mine, theirs = (
            [
                torch.optim.SparseAdam([t.model.stem[0].weight], 0.01),
                adamw(nn.ModuleList([t.model.layers, t.model.head]), 0.01),
            ]
            for t in (chained, apart)
        )
        together = ChainedOptimizer(*mine)
        schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (together, *theirs)]
        for _ in range(3):
            chained.step(together), apart.backward()
            for optimizer in theirs:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
        assert not torch.equal(chained.model.stem[0].weight, self.model.stem[0].weight)
        assert all(map(torch.equal, chained.model.parameters(), apart.model.parameters()))
        return "answered, and refused"


class HeadReplaced(Training):
    def later(self, optimizer):
        head = nn.Linear(6, CLASSES).double()
        with torch.no_grad():
            head.weight.copy_(draw(CLASSES, 6, seed=77)), head.bias.copy_(draw(CLASSES, seed=78))
        self.model.head = head
        if isinstance(optimizer, ChainedOptimizer):
            with pytest.raises(ValueError, match="to one of the optimisers, then chain them again"):
                optimizer.add_param_group({"params": list(head.parameters())})
        else:
            optimizer.add_param_group({"params": list(head.parameters())})

    def guard(self):
        answer, guard = super().guard(), Guard(self.model, weights=["head.weight"])
        self.model.head = nn.Sequential(nn.Linear(6, CLASSES).double())
        self.backward()
        with pytest.raises(ValueError, match="'head.weight' matches no parameter.*named_parameters"):
            guard.step()
        return answer + ", and refused"

    def recorder(self):
        answer, recorder = super().recorder(), Recorder(self.model, every=1)
        self.model.head = nn.Sequential(nn.Linear(6, CLASSES).double())
        with pytest.raises(ValueError, match="'head.weight' is gone.*make another"):
            recorder.look(0)
        return answer + ", and refused"

    def optimizers(self):
        return super().optimizers() + ", and refused"

    def follow(self, make, rule):
        """Only the optimiser at the bottom takes a group; a chain is made again around it."""
        optimizer = make(self.model, 0.01)
        self.step(optimizer), self.later(optimizer)
        parts = optimizer.optimizers if isinstance(optimizer, ChainedOptimizer) else (optimizer,)
        if len(parts) > 1:
            parts[-1].add_param_group({"params": list(self.model.head.parameters())})
            optimizer = ChainedOptimizer(*parts)
        before, kind = array(self.model.head.weight), rule if rule is SGD else AdamW
        self.step(optimizer)
        group = optimizer.param_groups[-1]
        expected = kind(group.get("weight_decay", 0) > 0).step(before, array(self.model.head.weight.grad), group["lr"])
        self.close(array(self.model.head.weight), expected)


class FrozenLater(Training):
    matrices = {"layers.1.weight": 1, "layers.3.weight": 1, "head.weight": 1}
    stale = False

    def later(self, optimizer):
        self.model.stem.requires_grad_(False)

    def backward(self):
        """What is frozen keeps its last gradient, as nobody zeroes it: torch would step on it, a tool must not look."""
        last = [p.grad for p in self.model.parameters()]
        super().backward()
        for p, grad in zip(self.model.parameters(), last, strict=True):
            p.grad = grad if self.stale and not p.requires_grad else p.grad

    def guard(self):
        self.stale = True
        return super().guard()

    def looked_at(self):
        return {"stem.weight": None} | self.gradients()

    def weights(self):
        return super().weights() | {"stem.weight": array(self.model.stem.weight)}


class DDP(Training):
    prefix = shown = "module."

    def wrap(self, model):
        return nn.parallel.DistributedDataParallel(model)


class Compiled(Training):
    prefix = "_orig_mod."

    def wrap(self, model):
        return torch.compile(model, backend="eager")

    def recorder(self):
        """Hooks on what is compiled already are passed over, unless it runs as it is written."""
        plain = nn.Sequential(nn.Unflatten(-1, (5, 1)), nn.Linear(1, 4), nn.Tanh()).double()
        compiled = torch.compile(plain, backend="eager")
        compiled(self.x)
        values = []
        for model in (compiled, plain):
            name = self.prefix * (model is compiled) + "1"
            recorder = Recorder(model, ["token_similarity"], probe=(self.x, self.y), tokens=[name])
            recorder.look(0)
            values.append(recorder.values["token_similarity"]["1"])
        assert values[0] == values[1]
        return super().recorder()

    def jacobian(self):
        plain = nn.Sequential(nn.Linear(self.inputs, 4), nn.ReLU()).double()
        compiled = torch.compile(plain, backend="eager")
        compiled(self.x)
        self.close(array(kink_margin(compiled, self.x)), array(plain[0](self.x).abs().amin(1)))
        return super().jacobian()


class Autocast(Training):
    """Gradients are unscaled before they are judged; a scale of 2^16 would multiply every norm."""

    dtype, tolerance = torch.float32, 1e-2

    def __init__(self):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu")

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(x).float()

    def backward(self):
        self.model.zero_grad()
        self.scaler.scale(mse_loss(self.forward(self.x), self.y)).backward()

    def step(self, optimizer, guard=None, recorder=None):
        self.backward()
        self.scaler.unscale_(optimizer)
        if recorder is not None:
            recorder.step()
        go = guard is None or guard.step()
        if go:
            self.scaler.step(optimizer)
        self.scaler.update()
        return go

    def guard(self):
        answer = super().guard()
        guard = Guard(self.model, method="clip", trigger=Detector(warmup=0, nonfinite="ignore"))
        optimizer, before = self.optimizer(), copies(self.model)
        self.y = self.y * math.inf  # an overflow is the scaler's business: no alarm, no step, a smaller scale
        scale = self.scaler.get_scale()
        assert not self.step(optimizer, guard) and guard.interventions == [] and guard.refused == 1
        assert self.scaler.get_scale() < scale
        assert all(torch.equal(p, before[name]) for name, p in self.model.named_parameters())
        return answer

    def points(self):
        return self.forward, *super().points()[1:]


class Accumulation(Training):
    """Two halves of the batch, one step: the gradients are those of the whole."""

    def backward(self):
        self.model.zero_grad()
        for x, y in zip(self.x.chunk(2), self.y.chunk(2), strict=True):
            (mse_loss(self.model(x), y) / 2).backward()

    def guard(self):
        whole = Training()
        whole.backward()
        guard = Guard(self.model, method="watch", trigger=AtSteps([1]))
        self.step(self.optimizer(), guard)
        norm = sum(np.linalg.norm(array(p.grad)) for p in whole.model.parameters())
        assert guard.interventions[0]["norm"] == pytest.approx(norm, rel=1e-12)
        return super().guard()


class LBFGS(Training):
    def optimizer(self):
        return torch.optim.LBFGS(self.model.parameters(), lr=0.5, max_iter=3)

    def step(self, optimizer, guard=None, recorder=None, inside=lambda: None):
        self.backward()
        gradients = [p.grad.clone() for p in self.model.parameters()]
        if recorder is not None:
            recorder.step()
        go = guard is None or guard.step()

        def closure():
            self.backward()
            inside()
            return mse_loss(self.model(self.x), self.y)

        if go:
            optimizer.step(closure)
        for p, g in zip(self.model.parameters(), gradients, strict=True):
            p.grad = g  # those that were judged
        return go

    def refused_inside(self, tool):
        before = copies(self.model)
        with pytest.raises(RuntimeError, match="closure of LBFGS.*Call it before"):
            self.step(self.optimizer(), inside=tool.step)
        assert all(torch.equal(p, before[name]) for name, p in self.model.named_parameters())
        return ", and refused"

    def guard(self):
        return self.refused_inside(Guard(self.model)) + super().guard()

    def recorder(self):
        return self.refused_inside(Recorder(self.model)) + super().recorder()

    def optimizers(self):
        """Its closure is called many times a step, so it cannot be one of several."""
        for make in (adamw, sgd, muon):
            with pytest.raises(ValueError, match="LBFGS.*cannot be chained.*by itself"):
                ChainedOptimizer(make(self.model, 0.01), torch.optim.LBFGS([nn.Parameter(torch.zeros(1))]))
        return "refused"


class Half(Training):
    dtype, tolerance = torch.bfloat16, 3e-2


class ChannelsLast(GroupNorm):
    def wrap(self, model):
        return model.to(memory_format=torch.channels_last)

    def step(self, *arguments, **options):
        go = super().step(*arguments, **options)
        assert self.model.layers[2].weight.is_contiguous(memory_format=torch.channels_last)
        return go


class Resumed(Training):
    """The same run, without interruption and with one in a cooldown: bit for bit the same."""

    jumps = {3: 20.0, 5: 20.0, 9: 20.0}  # the second lies in the cooldown of the first

    def tools(self, make):
        guard = Guard(self.model, method="log", k=2, trigger=Detector(warmup=2, cooldown=4), full_up_to=2)
        recorder = Recorder(self.model, ["stable_rank", "sje", "gradient_norm"], every=2)
        optimizer = make(self.model, 0.01)
        return guard, recorder, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def go(self, tools, steps):
        guard, recorder, optimizer, schedule = tools
        for step in steps:
            self.model.zero_grad()
            (self.jumps.get(step, 1.0) * mse_loss(self.model(self.x), self.y)).backward()
            recorder.step()
            if guard.step():
                optimizer.step()
            schedule.step()

    def resumed(self, make):
        """A run of 12 steps, and one that was left and taken up after 5, in the cooldown."""
        whole, first, second = type(self)(), type(self)(), type(self)()
        straight = whole.tools(make)
        whole.go(straight, range(12))
        tools = first.tools(make)
        first.go(tools, range(5))
        assert tools[0].trigger.quiet > 0 and len(tools[0].interventions) == 1
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (first.model, *tools)], file)
        with torch.no_grad():
            for p in second.model.parameters():
                p.zero_().add_(1)
                p[0] += torch.arange(p[0].numel()).view_as(p[0])
        again = second.tools(make)
        file.seek(0)
        for part, state in zip((second.model, *again), torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        second.go(again, range(5, 12))
        return whole, second, straight, again

    def same(self, make):
        whole, second, straight, again = self.resumed(make)
        assert all(map(torch.equal, whole.model.parameters(), second.model.parameters()))
        for part, other in zip(straight[:2], again[:2], strict=True):
            mine, theirs = part.state_dict(), other.state_dict()
            assert all(torch.equal(s.pop("generator"), straight[0]._generator.get_state()) for s in (mine, theirs)
                       if "generator" in s)  # fmt: skip
            assert mine.pop("seconds") >= 0 <= theirs.pop("seconds")
            assert mine == theirs
        assert [r["step"] for r in again[0].interventions] == [4, 10]
        return whole, second

    def guard(self):
        self.same(sgd)
        return super().guard()

    def recorder(self):
        self.same(adamw)
        return super().recorder()

    def jacobian(self):
        whole, second = self.same(sgd)
        assert torch.equal(jacobian(whole.model, self.x), jacobian(second.model, self.x))
        return super().jacobian()

    def ntk(self):
        whole, second = self.same(sgd)
        assert torch.equal(whole.measured_ntk()[0], second.measured_ntk()[0])
        return super().ntk()

    def optimizers(self):
        for make in (adamw, sgd, muon):
            self.same(make)
        return super().optimizers()


TRAININGS = {
    "group_norm": GroupNorm,
    "batch_norm": BatchNorm,
    "layer_norm": LayerNorm,
    "lstm": LSTM,
    "transformer": Transformer,
    "tied": Tied,
    "sparse": Sparse,
    "head_replaced": HeadReplaced,
    "frozen_later": FrozenLater,
    "ddp": DDP,
    "compiled": Compiled,
    "autocast": Autocast,
    "accumulation": Accumulation,
    "lbfgs": LBFGS,
    "half": Half,
    "channels_last": ChannelsLast,
    "resumed": Resumed,
}


@pytest.fixture
def process_group(tmp_path):
    """One process, which finds itself by a file."""
    file = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_every_cell_is_there():
    assert set(TABLE) == set(TRAININGS) and len(TABLE) == 17 and len(TOOLS) == 5
    assert all(len(row) == len(TOOLS) for row in TABLE.values())


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("training", TRAININGS)
def test_cell(training, tool, request):
    if training == "autocast" and not hasattr(torch.amp, "GradScaler"):
        pytest.skip("before torch 2.3 there was no scaler on the CPU")
    if training == "ddp":
        request.getfixturevalue("process_group")
    answer = getattr(TRAININGS[training](), tool)()
    said = TABLE[training][TOOLS.index(tool)]
    assert ("answered" in answer, "refused" in answer) == (said.startswith(ANSWERED), "refused" in said)

"""Derivatives by ``torch.func``, row by row: forward or reverse, whichever is cheaper and right for the function."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import jacfwd, jacrev, vmap
from torch.overrides import TorchFunctionMode

from pso_lib.errors import require_dtype

__all__ = [
    "lacks_vmap",
    "module_of",
    "named_dtypes",
    "of_points",
    "plain_attention",
    "plain_kernels",
    "row_jacobians",
    "uncompiled",
]

_MIXING = nn.modules.batchnorm._BatchNorm
_DROPPING = {nn.modules.dropout._DropoutNd: "p", nn.MultiheadAttention: "dropout", nn.RNNBase: "dropout"}


def module_of(f) -> torch.nn.Module | None:
    """The module that f is, or is a bound method of."""
    module = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    return module if isinstance(module, nn.Module) else None


def of_points(f: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """f as a map of points (n,): itself, or through a batch of one where it knows batches only, as BatchNorm does.

    A module is trained on batches: where it takes a point for something else, as GroupNorm takes channels for examples
    if a picture is as high as it has channels, a batch of one says what it does.

    Raises:
        ValueError: a part of the module mixes rows or draws random numbers, as some do in training mode.
    """
    module = module_of(f)
    if module is not None:
        _require_rows_apart(module)
    with torch.no_grad(), plain_kernels(), named_dtypes(f, x):
        try:
            alone = f(x[0].clone())  # what works in place shall not reach x
        except (RuntimeError, ValueError, IndexError):
            f(x[:1].clone())  # if this fails too, the error is the function's own
            return lambda point: f(point[None])[0]
        try:
            agree = not isinstance(f, nn.Module) or _agree(alone, f(x[:1].clone()))
        except (RuntimeError, ValueError, IndexError):  # it knows points only
            agree = True
    return f if agree else lambda point: f(point[None])[0]


def _agree(alone: Tensor, batch: Tensor) -> bool:
    if not isinstance(alone, Tensor):
        return True
    tolerance = torch.finfo(alone.dtype).eps ** 0.5 if alone.is_floating_point() else 0
    return batch.shape == (1, *alone.shape) and torch.allclose(
        alone, batch[0], rtol=tolerance, atol=tolerance * alone.abs().amax().item(), equal_nan=True
    )


def _require_rows_apart(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, _MIXING) and (part.training or part.running_mean is None):
            why = "normalises by the whole batch"
        elif part.training and any(isinstance(part, k) and getattr(part, p) > 0 for k, p in _DROPPING.items()):
            why = "draws random numbers"
        else:
            continue
        mode = "in training mode" if part.training else "without running statistics"
        raise ValueError(
            f"module {name!r}, a {type(part).__name__} {mode}, {why}: no row has a Jacobian of its own. "
            "Call model.eval() first, and model.train() afterwards; a BatchNorm needs running statistics for it."
        )


def row_jacobians(
    function: Callable, x: Tensor, *, wide: bool, chunk: int, create_graph: bool = False, has_aux: bool = False
):
    """The Jacobians of ``function`` at the rows of ``x``, and its second value if it ``has_aux``.

    Forward mode unless the function is ``wide`` (more inputs than outputs), holds an operation without forward mode, or
    a ``torch.no_grad`` block, which only reverse mode takes for a constant, as training does. Row by row where an
    operation is not known to ``vmap``.
    """

    def f(point):  # what works in place shall reach neither x nor the other rows
        return function(point.clone())

    with plain_kernels(create_graph):
        if not wide and not _has_no_grad_block(f, x[0]):
            try:
                return vmap(jacfwd(f, has_aux=has_aux), chunk_size=chunk)(x)
            except NotImplementedError:  # how torch says that an operation has no forward mode
                pass
            except RuntimeError as error:
                if not lacks_vmap(error):
                    raise
        try:
            return vmap(jacrev(f, has_aux=has_aux), chunk_size=chunk)(x)
        except RuntimeError as error:
            if not lacks_vmap(error):
                raise
        return _one_by_one(f, x, create_graph, has_aux)


def lacks_vmap(error: RuntimeError) -> bool:
    """Whether an operation that works on a point may be one that cannot be batched: LSTM fails in words of its own.

    Not if memory is short, nor if random numbers are drawn: there is no Jacobian then.
    """
    return not isinstance(error, torch.OutOfMemoryError) and "randomness" not in str(error)


def _one_by_one(f: Callable, x: Tensor, create_graph: bool, has_aux: bool):
    found: list[tuple[Tensor, ...]] = []
    for point in x:
        with torch.enable_grad():
            point = point if create_graph and point.requires_grad else point.detach().requires_grad_()
            out, *aux = f(point) if has_aux else (f(point),)
            rows = [
                torch.autograd.grad(
                    value,
                    point,
                    retain_graph=True,
                    create_graph=create_graph,
                    allow_unused=True,
                    materialize_grads=True,
                )[0]
                if value.requires_grad
                else torch.zeros_like(point)
                for value in out.flatten()
            ]
        J = torch.stack(rows) if rows else point.new_zeros(0, len(point))
        J = J.view(*out.shape, len(point))
        found.append((J, *(value.detach() for value in aux)))
    stacked = tuple(map(torch.stack, zip(*found, strict=True)))
    return stacked if has_aux else stacked[0]


@contextmanager
def plain_kernels(create_graph: bool = False) -> Iterator[None]:
    """How every transform runs: attention by its formula, for the fused kernels know no forward mode and no ``vmap``;
    without the deprecation warning that torch raises at its own first forward-mode call; and, but for ``create_graph``,
    without a graph over the weights, which each chunk would keep."""
    mha = getattr(torch.backends, "mha", None)
    fast = mha is not None and mha.get_fastpath_enabled()
    if mha is not None:
        mha.set_fastpath_enabled(False)
    try:
        graph = nullcontext() if create_graph else torch.no_grad()
        with graph, plain_attention(), uncompiled(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
            yield
    finally:
        if mha is not None:
            mha.set_fastpath_enabled(fast)


def uncompiled():
    """What ``torch.compile`` compiled runs as it is written: transforms go through, and hooks set later are called."""
    compiler = sys.modules.get("torch._dynamo")  # long to load, and there if anything was compiled
    set_stance = getattr(compiler, "set_stance", None)  # torch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def plain_attention():
    """Attention by its formula."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # before torch 2.3
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def named_dtypes(f, x: Tensor) -> Iterator[None]:
    """Turn torch's complaint about mixed precisions into one that names the remedy."""
    try:
        yield
    except RuntimeError:
        module = module_of(f)
        kinds = {p.dtype for p in module.parameters() if p.is_floating_point()} if module is not None else set()
        if len(kinds) == 1:
            require_dtype("x", x, kinds.pop())
        raise


class _GradientMode(TorchFunctionMode):
    """Notes whether anything is computed while gradients are off."""

    off = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.off |= not torch.is_grad_enabled() and func is not torch._C._set_grad_enabled
        return func(*args, **(kwargs or {}))


def _has_no_grad_block(f, point: Tensor) -> bool:
    with torch.enable_grad(), _GradientMode() as mode:
        f(point)
    return mode.off

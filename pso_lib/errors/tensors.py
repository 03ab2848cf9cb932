"""Checks of tensors: that they are some, of which shape, kind, precision and device, and finite."""

import torch

from pso_lib.errors.plain import NonFiniteError

__all__ = [
    "autocast_enabled",
    "device_of",
    "require_dtype",
    "require_finite",
    "require_floating",
    "require_labels",
    "require_matrix",
    "require_real",
    "require_rows",
    "require_same_dtype",
    "require_shape",
    "require_tensor",
]


def require_tensor(argument: str, value) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; give a tensor: torch.as_tensor({argument}).")


def require_real(argument: str, value) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor, ``ValueError`` unless of real numbers, not on "meta"."""
    require_tensor(argument, value)
    if value.is_meta:
        raise ValueError(f'{argument} is on the device "meta", which holds no numbers; make it on "cpu" or a GPU.')
    if value.is_complex():
        raise ValueError(f"{argument} is {value.dtype}; it must be real: {argument}.real, or torch.view_as_real.")


def require_floating(argument: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` unless the tensor holds floating point numbers."""
    if not value.is_floating_point():
        raise ValueError(
            f"{argument} has dtype {value.dtype}; it must be floating point: {argument}.double(). Tokens have no "
            "derivative: start from their embedding."
        )


def require_finite(argument: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` if the tensor holds NaN or an infinity. A tensor on "meta" holds nothing."""
    if value.is_meta:
        return
    bad = ~torch.isfinite(value)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise NonFiniteError(
            f"{argument} holds {int(bad.sum())} non-finite value(s), the first at index {first}. "
            "Look for an overflow or a division by zero where it was made; a lower learning rate "
            "or float64 often cures it. Or leave them out."
        )


def require_shape(argument: str, value: torch.Tensor, last: int) -> None:
    """Raise ``ValueError`` unless the last axis of ``value`` has length ``last``."""
    if not hasattr(value, "shape"):
        require_tensor(argument, value)
    if value.ndim == 0 or value.shape[-1] != last:
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; its last axis must have length {last}. "
            "Points are rows: pass (..., n), and transpose or flatten if needed."
        )


def require_rows(argument: str, value: torch.Tensor, width: int | None = None) -> None:
    """Raise ``ValueError`` unless the tensor is (N, n), N >= 1, of finite floating point numbers; n the ``width``."""
    if width is not None:
        require_shape(argument, value, width)
    if value.ndim != 2 or len(value) == 0:
        wanted = f"(N, {'n' if width is None else width})"
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; it must be {wanted}, N >= 1. One point is {argument}[None]."
        )
    require_floating(argument, value)
    require_finite(argument, value)


def require_matrix(argument: str, value: torch.Tensor, *, finite: bool = True) -> None:
    """Raise ``ValueError`` unless the tensor is (..., m, n), m and n at least 1, of (finite) floating point numbers."""
    if value.ndim < 2 or 0 in value.shape[-2:]:
        raise ValueError(f"{argument} has shape {tuple(value.shape)}; it must be (..., m, n), m and n at least 1.")
    require_floating(argument, value)
    if finite:
        require_finite(argument, value)


def require_same_dtype(argument: str, value: torch.Tensor, other: str, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` has the ``dtype`` of the argument ``other``."""
    if value.dtype != dtype:
        raise ValueError(f"{argument} is {value.dtype} and {other} {dtype}; give both in one: {argument}.to({dtype}).")


def require_dtype(argument: str, value: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` unless ``value`` has the weights' ``dtype``; under autocast, which casts, it may be any."""
    require_tensor(argument, value)
    if value.dtype != dtype and not autocast_enabled(value.device.type):
        raise ValueError(
            f"{argument} is {value.dtype}, the weights are {dtype}; pass {argument}.to({dtype}), or move the network: "
            f"network.to({value.dtype if value.is_floating_point() else 'torch.float64'})."
        )


def autocast_enabled(device: str) -> bool:
    """Whether torch.autocast is on for this type of device."""
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def require_labels(
    argument: str, labels: torch.Tensor, rows: int, classes: int | None = None, *, of: str = "the input"
) -> None:
    """Raise ``ValueError`` unless ``labels`` is (rows,), integers from 0 up, below ``classes`` if that is given.

    ``of``: what the rows are of, for the text.
    """
    require_tensor(argument, labels)
    shape = tuple(labels.shape)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"{argument} has shape {shape} and dtype {labels.dtype}; it must be (N,), one integer per row. A column "
            f"is flattened by {argument}.flatten(), one-hot rows become numbers by {argument}.argmax(1)."
        )
    if len(labels) != rows or rows == 0:
        raise ValueError(f"{of} has {rows} rows and {argument} {len(labels)} labels; give equally many, at least one.")
    if labels.is_meta:
        return
    least, most = labels.min().item(), labels.max().item()
    if least < 0 or (classes is not None and most >= classes):
        allowed = "0 or above" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(
            f"{argument} holds the label {least if least < 0 else most}; labels must lie {allowed}. Leave out rows "
            "without a label, and count classes from 0."
        )


def device_of(generator: torch.Generator | None, otherwise=None, argument: str = "generator"):
    """Where to draw: the generator's device; without one ``otherwise``, or torch's default device if it holds numbers.

    Raises:
        TypeError: not a generator, a seed for instance.
    """
    if generator is None:
        if otherwise is None and torch.empty(0).is_meta:  # "meta" is torch's default device
            return "cpu"
        return otherwise
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"{argument} must be a torch.Generator or None, got {generator!r}; from a seed it is made by "
            "torch.Generator().manual_seed(0)."
        )
    return generator.device

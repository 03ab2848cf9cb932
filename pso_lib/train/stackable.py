"""What an ensemble can train: exactly the networks that its engine computes; all else is refused by name."""

from functools import cache, reduce

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from torch.nn.utils import parametrize
from torch.optim import optimizer as optimizers_of_torch

from pso_lib.errors import autocast_enabled
from pso_lib.nn.init import layers_of
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import DeepNetwork
from pso_lib.train.stacked import rule, views

__all__ = ["require_plain_surroundings", "require_same_outputs", "require_stackable"]

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")  # of a module
GLOBAL_HOOKS = tuple((modules_of_torch, f"_global{kind}") for kind in HOOKS) + tuple(
    (optimizers_of_torch, f"_global_optimizer_{kind}_hooks") for kind in ("pre", "post")
)
# What a subclass may define without computing anything else: how it is built and printed.
HARMLESS = {"__init__", "__repr__", "extra_repr", "__doc__", "__module__", "__annotations__", "__qualname__"}
HARMLESS |= {"__parameters__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__abstractmethods__"}
HARMLESS |= {"__annotate__", "__annotate_func__", "__annotations_cache__", "__type_params__"}
HARMLESS |= {"_compiled_call_impl"}  # of an object, by its compile()


def require_stackable(networks: list) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless they are ``DeepNetwork`` objects of one shape, plain throughout.

    Plain: the library's own layers and methods, no hooks, no parametrisation, each weight a matrix of its own.
    """
    if not networks:
        raise ValueError("networks is empty; give at least one DeepNetwork.")
    for index, network in enumerate(networks):
        shape = _signature(index, network)
        if index == 0:
            first = shape
        for part, given in shape.items():
            if given != first[part]:
                raise ValueError(
                    f"networks[{index}] has {part} {given}, networks[0] has {first[part]}; an ensemble is of one "
                    "shape. Build them alike, or make one Ensemble for each shape."
                )
    _require_memory_of_their_own(
        {f"networks[{e}].{path}": p for e, network in enumerate(networks) for path, p in network.named_parameters()}
    )


def require_plain_surroundings(device: torch.device) -> None:
    """Raise ``RuntimeError`` under autocast, and while torch holds hooks for all modules or optimisers."""
    if autocast_enabled(device.type):
        raise RuntimeError(
            f"autocast is on for {device.type}, and an ensemble trains in its weights' own dtype. Leave torch.autocast "
            "for this call, or use training.train."
        )
    for home, kind in GLOBAL_HOOKS:
        if getattr(home, kind, None):
            raise RuntimeError(
                f"torch holds a hook of every {home.__name__.rpartition('.')[2]} ({kind.removeprefix('_global_')}), "
                "which an ensemble would not call; remove it by the handle that its registration returned, or use "
                "training.train."
            )


@torch.no_grad()
def require_same_outputs(ensemble) -> None:
    """Raise ``ValueError`` unless the stack computes what the networks do.

    Part by part, on a few rows: through many layers rounding alone may grow without end.
    """
    layers, (lift, lift_b), (readout, readout_b) = views(ensemble, ensemble.weights, ensemble.depth)
    x, h = _some_rows(ensemble.inputs, ensemble.weights), _some_rows(ensemble.dim, ensemble.weights)
    start, end = (v.expand(len(ensemble), *v.shape) for v in (x, h))
    networks = ensemble.networks
    parts = [
        ("lift", torch.baddbmm(lift_b, start, lift.mT)),
        ("readout", torch.baddbmm(readout_b, end, readout.mT)),
    ]
    parts += [(f"layers.{place}", ensemble._layer(end, *weights)) for place, weights in enumerate(layers)]
    for path, ours in parts:
        modules, points = (network.get_submodule(path) for network in networks), x if path == "lift" else h
        _require_equal(f".{path}", ours, [module(points) for module in modules])
    paths = ("lift", *(f"layers.{place}" for place in range(ensemble.depth)), "readout")
    one_by_one = [reduce(_apply, map(network.get_submodule, paths), x) for network in networks]
    _require_equal("", torch.stack(one_by_one), [network(x) for network in networks])


# ------------------------------------------------------------------------------------------------ numbers


def _some_rows(width: int, like: Tensor) -> Tensor:
    """Four rows of numbers of size 1, the same on every device, that touch no random generator."""
    grid = torch.arange(1, 4 * width + 1, dtype=torch.float64, device="cpu").view(4, width)
    return torch.cos(grid * grid).to(like)


def _apply(h: Tensor, layer: nn.Module) -> Tensor:
    return layer(h)


def _require_equal(part: str, ours: Tensor, outputs: list[Tensor]) -> None:
    """Up to rounding, relative to a network's largest number; what has overflowed is left aside."""
    theirs = torch.stack(outputs)  # (E, N, m)
    finite, info = theirs.isfinite(), torch.finfo(theirs.dtype)
    tf32 = theirs.is_cuda and theirs.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    scale = torch.where(finite, theirs, 0).abs().amax((1, 2), keepdim=True)
    tolerance = min(1e3 * (2**-11 if tf32 else info.eps), 0.05) * scale + info.tiny
    same = (((ours - theirs).abs() <= tolerance) | ~finite).flatten(1).all(1)
    if not same.all():
        name = f"networks[{same.tolist().index(False)}]{part}"
        raise ValueError(
            f"{name} computes something else than the ensemble would train: their outputs differ on the same rows. "
            "Use training.train for it."
        )


# ------------------------------------------------------------------------------------------------- memory


def _require_memory_of_their_own(parameters: dict[str, Tensor]) -> None:
    """Refuse a weight that is another, overlaps another, or repeats itself: the ensemble would train copies of it."""
    clusters: list[list[tuple[str, Tensor]]] = []  # of weights that begin before those ahead of them end
    device, end = None, 0
    for name, p in sorted(parameters.items(), key=lambda item: (str(item[1].device), item[1].data_ptr())):
        if p.device != device or p.data_ptr() >= end:
            clusters.append([])
            device, end = p.device, 0
        clusters[-1].append((name, p))
        end = max(end, p.data_ptr() + _reach(p) * p.element_size())
    for cluster in clusters:
        if len(cluster) == 1 and _reach(cluster[0][1]) == cluster[0][1].numel():
            continue  # alone there, each element once
        addresses = torch.cat([_addresses(p) for _, p in cluster])
        _, which, times = addresses.unique(return_inverse=True, return_counts=True)
        if (times == 1).all():
            continue
        of = [name for name, p in cluster for _ in range(p.numel())]
        owner, name, *_ = (of[place] for place in (which == times.argmax()).nonzero().flatten().tolist())
        raise ValueError(
            f"{name} shares memory with {'itself' if name == owner else owner}; an ensemble would train two copies of "
            "it. Give each network weights of its own, by copy.deepcopy or clone(), and each network once."
        )


def _reach(p: Tensor) -> int:
    """How many elements' room lies from its first element to its last."""
    return sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True)) + 1


def _addresses(p: Tensor) -> Tensor:
    """Where each element lies."""
    axes = [torch.arange(size, device="cpu") * stride for size, stride in zip(p.shape, p.stride(), strict=True)]
    return p.data_ptr() + p.element_size() * reduce(lambda a, b: a[..., None] + b, axes).flatten()


# ------------------------------------------------------------------------------------------------ networks


def _signature(index: int, network) -> dict:
    """What must agree between the networks; raises for what no ensemble can train."""
    name = f"networks[{index}]"
    if not isinstance(network, DeepNetwork):
        raise TypeError(f"{name} is a {type(network).__name__}; give DeepNetwork objects, as deep_network makes them.")
    _require_own(name, network, DeepNetwork)
    _require_own(f"{name}.layers", network.layers, nn.ModuleList)
    affines: dict[str, nn.Linear] = {}
    for end in ("lift", "readout"):
        affine = getattr(network, end)
        if not isinstance(affine, nn.Linear):
            raise ValueError(f"{name} has no affine {end}; build it with inputs= and classes=.")
        _require_own(f"{name}.{end}", affine, nn.Linear)
        if affine.bias is None:
            raise ValueError(f"{name}.{end} has no bias; build it with inputs= and classes=.")
        affines[end] = affine
    kinds = []
    for place, layer in enumerate(network.layers):
        where = f"{name}.layers[{place}]"
        if not isinstance(layer, Layer):
            raise TypeError(f"{where} is a {type(layer).__name__}, not a pso_lib Layer; use training.train for it.")
        if layer.orthogonal == "always":
            raise ValueError(
                f'{where} has orthogonal="always"; its weights are no plain matrices. Make the layer with '
                'orthogonal="start", or use training.train.'
            )
        _require_own(where, layer, Layer)
        kernels = rule(layer.activation)  # known by its exact type
        _require_own(f"{where}.activation", layer.activation, type(layer.activation))
        kind = {key: getattr(layer, key) for key in ("dim", "hidden", "alpha", "beta", "outer")}
        kinds.append({**kind, "bias": layer.b is not None, "activation": kernels.name})
        if kinds[-1] != kinds[0]:
            raise ValueError(f"{where} is {layer!r}, its first layer {network.layers[0]!r}; all layers must be alike.")
    _require_layout(name, network)
    parameters = list(network.parameters())
    if not all(p.requires_grad for p in parameters):
        raise ValueError(f"{name} has frozen parameters; unfreeze them with requires_grad_(), or use training.train.")
    kinds_of = {(p.dtype, p.device) for p in parameters}
    if len(kinds_of) > 1:
        raise ValueError(f"{name} mixes dtypes or devices, {kinds_of}; move it with network.to(...).")
    dtype, device = kinds_of.pop()
    if device.type == "meta":
        raise ValueError(f"{name} is on meta and has no numbers; build it on a device that holds them.")
    ends = {"inputs": affines["lift"].in_features, "classes": affines["readout"].out_features}
    return {"depth": network.depth, **kinds[0], **ends, "dtype": dtype, "device": device}


def _require_own(name: str, module: nn.Module, kind: type) -> None:
    """Refuse a module that redefines anything of its ``kind``, in a subclass or on itself, or with derived weights."""
    if parametrize.is_parametrized(module):
        weight, chain = next(module.get_submodule("parametrizations").named_children())
        by = type(next(chain.children())).__name__
        raise ValueError(
            f"{name}.{weight} is parametrised by {by}; its weights are no plain matrices. Remove it "
            f"with torch.nn.utils.parametrize.remove_parametrizations({name}, {weight!r}), or use training.train."
        )
    mine, theirs = vars(module), _attributes(kind)
    between = type(module).__mro__[: type(module).__mro__.index(kind)]
    redefined = [name for name in mine if name in theirs]
    for defined in between:
        own = theirs.union(mine, module._parameters, module._modules)
        redefined += [name for name in vars(defined) if name in own - HARMLESS]
    if redefined:
        raise TypeError(
            f"{name} is a {type(module).__name__} with a {redefined[0]} of its own, and the ensemble would compute "
            f"{kind.__name__}'s; use training.train for it."
        )


@cache
def _attributes(kind: type) -> frozenset[str]:
    return frozenset(dir(kind)) - HARMLESS


def _require_layout(name: str, network: DeepNetwork) -> None:
    """Refuse hooks, buffers, and any parameters but those of the layers, the lift and the readout, in this order."""
    for path, module in network.named_modules():
        hooks = [kind for kind in HOOKS if getattr(module, kind, None)]
        if hooks:
            raise ValueError(
                f"{name}{'.' if path else ''}{path} has a hook ({hooks[0].strip('_')}), which an ensemble would not "
                "call; remove it, or use training.train."
            )
    for path, parameter in network.named_parameters():
        if type(parameter) is not nn.Parameter or parameter.layout != torch.strided:
            raise TypeError(
                f"{name}.{path} is a {type(parameter).__name__} of layout {parameter.layout}; an ensemble stacks plain "
                "dense parameters. Use training.train for it."
            )
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ValueError(
                f"{name}.{path} has a hook on its gradient, which an ensemble would not call; remove it, or use "
                "training.train."
            )
    if buffers := [path for path, _ in network.named_buffers()]:
        raise ValueError(
            f"{name} has a buffer, {buffers[0]!r}, of which an ensemble knows nothing; use training.train."
        )
    found = {path: tuple(p.shape) for path, p in network.named_parameters(remove_duplicate=False)}
    wanted = _layout(network)
    if found == wanted and list(found) == list(wanted) == [path for path, _ in network.named_parameters()]:
        return
    odd = [path for path in found if found[path] != wanted.get(path)]
    why = f"another parameter, {odd[0]!r} of shape {found[odd[0]]}" if odd else "them shared or in another order"
    raise ValueError(
        f"{name} must have the parameters {', '.join(list(wanted)[:4])} … {list(wanted)[-1]}, each once and in this "
        f"order; it has {why}. Build it with deep_network, or use training.train."
    )


def _layout(network: DeepNetwork) -> dict[str, tuple[int, ...]]:
    """The parameters by name, as an ensemble stacks them."""
    layout: dict[str, tuple[int, ...]] = {}
    first = layers_of(network)[0]
    for place in range(network.depth):
        layout[f"layers.{place}.A"] = (first.hidden, first.dim)
        if first.has_own_B:
            layout[f"layers.{place}._B"] = (first.hidden, first.dim)
        if first.b is not None:
            layout[f"layers.{place}.b"] = (first.hidden,)
    for end in ("lift", "readout"):
        affine = getattr(network, end)
        layout |= {f"{end}.weight": (affine.out_features, affine.in_features), f"{end}.bias": (affine.out_features,)}
    return layout

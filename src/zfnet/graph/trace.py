"""A net as a graph: which operations it consists of, in which order, and what each reads.

    graph = trace(model)
    graph.names                  # ["conv1", "relu1", "pool1", …, "classifier.fc8"]
    graph.number("relu5")        # its place in graph.nodes

torch.fx follows the model's own `forward`, with the modules of torch.nn as leaves, so residual
sums, concatenations, functional ReLUs and modules that are used twice are what they are. A flat
nn.Sequential is the simplest case. Layers are named as the modules are ("layer3.1.relu", its second
call "layer3.1.relu:2"), functions by the module that calls them ("layer3.1.add"); the "features."
of AlexNet, VGG and ZFNet is left out, so that the names are those of `model.features`, too.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from zfnet.graph.forward import evaluating, unwrapped
from zfnet.store.errors import Unsupported, UserError

Pair = tuple[int, int]

# What a module is, if its `forward` is that of torch.nn. "linear": the adjoint is autograd's.
MODULES = {
    nn.Conv2d: "conv",
    nn.MaxPool2d: "max",
    nn.AvgPool2d: "average",
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.Hardtanh: "relu",
    nn.BatchNorm2d: "norm",
    nn.LocalResponseNorm: "same",
    nn.Identity: "same",
    nn.Dropout: "same",
    nn.Dropout2d: "same",
    nn.AlphaDropout: "same",
    nn.AdaptiveAvgPool2d: "whole",
    nn.Flatten: "whole",
    nn.Linear: "whole",
    nn.LeakyReLU: "point",
    nn.PReLU: "point",
    nn.ELU: "point",
    nn.GELU: "point",
    nn.SiLU: "point",
    nn.Mish: "point",
    nn.Softplus: "point",
    nn.Sigmoid: "point",
    nn.Tanh: "point",
    nn.Hardswish: "point",
    nn.Hardsigmoid: "point",
}
FUNCTIONS = {
    "relu": "relu relu_ relu6 hardtanh hardtanh_ clamp_min clamp_min_",
    "max": "max_pool2d",
    "average": "avg_pool2d",
    "same": "dropout dropout_ dropout2d local_response_norm stochastic_depth contiguous clone",
    "sum": "add iadd add_ sub isub sub_",
    "cat": "cat concat",
    "linear": "chunk split getitem view reshape transpose truediv div div_ neg",
    "gate": "mul imul mul_ multiply",
    "whole": "adaptive_avg_pool2d mean flatten squeeze unsqueeze linear",
    "point": "leaky_relu elu gelu silu mish softplus sigmoid tanh hardswish hardsigmoid",
    "value": "size getattr floordiv dim int",
}
FUNCTIONS = {kind: names.split() for kind, names in FUNCTIONS.items()}
KIND = {name: kind for kind, names in FUNCTIONS.items() for name in names}
IN_PLACE = {"iadd": operator.add, "isub": operator.sub, "imul": operator.mul}
PLUMBING = ("view", "reshape", "transpose", "contiguous", "chunk", "split")  # no layers of a net
WEIGHT_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def pair(value) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class Kernel:
    """The geometry of a convolution or pool, pairs for rows and columns; padding `before` and
    `after` the map holds `outside`. `exact`: a window can be computed from its own pixels alone.
    """

    size: Pair
    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair
    ceil_mode: bool
    outside: float
    exact: bool

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Of an nn.Conv2d, nn.MaxPool2d or nn.AvgPool2d: the one place that unpacks them."""
        size, stride = pair(module.kernel_size), pair(module.stride)
        dilation = pair(getattr(module, "dilation", 1))
        before = after = (0, 0)
        if module.padding == "same":  # an odd total has its larger half behind, as PyTorch has it
            total = tuple(d * (k - 1) for d, k in zip(dilation, size, strict=True))
            before = tuple(n // 2 for n in total)
            after = tuple(n - n // 2 for n in total)
        elif module.padding != "valid":
            before = after = pair(module.padding)
        ceil_mode = getattr(module, "ceil_mode", False)
        exact = True
        if isinstance(module, nn.AvgPool2d):  # a mean over what is inside depends on the place
            exact = not ceil_mode and (module.count_include_pad or not any(before))
        outside = float("-inf") if isinstance(module, nn.MaxPool2d) else 0.0
        return cls(size, stride, before, after, dilation, ceil_mode, outside, exact)

    def outputs(self, inputs: Pair) -> Pair:
        """Map size behind it; in ceil mode a window that would start in the padding behind the map
        is dropped, as PyTorch does.
        """
        counts = []
        for n, k, s, p, q, d in zip(
            inputs, self.size, self.stride, self.before, self.after, self.dilation, strict=True
        ):
            room = n + p + q - d * (k - 1) - 1
            count = (-(-room // s) if self.ceil_mode else room // s) + 1
            counts.append(count - (self.ceil_mode and (count - 1) * s >= n + p))
        return counts[0], counts[1]

    def inputs(self, outputs: Pair) -> Pair:
        """How many rows and columns a block of so many outputs reads."""
        parts = zip(outputs, self.stride, self.size, self.dilation, strict=True)
        rows, cols = ((n - 1) * s + d * (k - 1) + 1 for n, s, k, d in parts)
        return rows, cols


@dataclass(frozen=True)
class Node:
    """One operation: `call(values)` of the outputs of the nodes numbered `inputs`.

    kind: input, conv, max, average, relu, norm, same (identity on the way down), sum, cat (of
    channels), linear (its adjoint), gate (a product, one factor held fixed), point (pointwise,
    without a rule), whole (it sees whole maps), value (no map), unknown. `module`: what holds the
    weights; `limit`: where a ReLU6 cuts off; `spatial`: its output is maps; `global_`: a unit may
    see the whole image.
    """

    name: str
    kind: str
    inputs: tuple[int, ...] = ()
    call: Callable[[Sequence], object] | None = None
    module: nn.Module | None = None
    kernel: Kernel | None = None
    limit: float | None = None
    spatial: bool = True
    global_: bool = False
    why: str = ""

    @property
    def weight(self) -> torch.Tensor:
        """The convolution's weights as they are now; hooks that make them (pruning, the old weight
        and spectral norm) are run first.
        """
        for hook in self.module._forward_pre_hooks.values():
            hook(self.module, None)
        return self.module.weight

    def required(self) -> Self:
        """Itself if it has a rule; Unsupported, by name, otherwise."""
        if self.why:
            raise Unsupported(self.why)
        return self


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of computation, the image first. `output`: which one the model returns."""

    model: nn.Module
    nodes: tuple[Node, ...]
    output: int

    @functools.cached_property
    def names(self) -> list[str]:
        """The layers that are maps, in the order of computation."""
        shown = (node for node in self.nodes[1:] if node.spatial)
        return [node.name for node in shown if _plain(node.name) not in PLUMBING]

    def readers(self, order: Sequence[int]) -> dict[int, int]:
        """How many of the nodes numbered `order` read each of them."""
        counts = dict.fromkeys(order, 0)
        for number in order:
            for source in self.nodes[number].inputs:
                counts[source] += 1
        return counts

    def number(self, layer: str | int) -> int:
        """The place of the layer of that name among the nodes; UserError lists those there are."""
        name = str(layer).removeprefix("features.")
        numbers = {node.name: number for number, node in enumerate(self.nodes)}
        inside = [number for one, number in numbers.items() if one.startswith(f"{name}.")]
        if numbers.get(name) or inside:  # of a block of modules, what comes out of it
            return numbers.get(name) or inside[-1]
        known = self.names if len(self.names) <= 40 else get_close_matches(name, self.names, 8, 0.0)
        rest = "" if len(self.names) <= 40 else " … (`zfnet.layers(model)` lists all)"
        raise UserError(f"no layer {layer!r}: choose one of {', '.join(known)}{rest}")

    def above(self, *layers: int) -> list[int]:
        """The numbers of all nodes that these read, directly or not, and their own, ascending."""
        found, waiting = set(), list(layers)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += self.nodes[number].inputs
        return sorted(found)

    def way_down(self, layer: int) -> list[Node]:
        """The nodes that a signal in the maps of this layer passes; factors of a gate are none."""
        found, waiting = {}, [layer]
        while waiting:
            number = waiting.pop()
            if number not in found and self.nodes[number].spatial:
                found[number] = self.nodes[number]
                waiting += self.nodes[number].inputs
        return [found[number] for number in sorted(found)]

    def local(self, *layers: int) -> bool:
        """Whether every map on the way to these can be computed window by window."""
        nodes = [self.nodes[number] for number in self.above(*layers)]
        return all(
            node.spatial and not node.global_ and (node.kernel is None or node.kernel.exact)
            for node in nodes
            if node.kind != "value"
        )

    @functools.cached_property
    def last(self) -> int | None:
        """The last map: the only one that the head reads; None where it reads several, or the
        image itself.
        """
        seen, waiting = set(), [self.output]
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                waiting += () if self.nodes[number].spatial else self.nodes[number].inputs
        found = {number for number in seen if self.nodes[number].spatial}
        return found.pop() if len(found) == 1 and 0 not in found else None

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        """What the model returns, from its last map: everything behind it, in one call."""
        return run(self, {self.last: maps}, self.output)

    @property
    def weight(self) -> torch.Tensor:
        """A parameter, for its device and type; an empty tensor for a net without any."""
        return next(self.model.parameters(), torch.empty(0))


def run(graph: Graph, values: dict[int, object], number: int) -> object:
    """The output of one node, given those of some before it."""
    needed, waiting = set(), [number]
    while waiting:
        one = waiting.pop()
        if one not in needed and one not in values:
            needed.add(one)
            waiting += graph.nodes[one].inputs
    for one in sorted(needed):
        node = graph.nodes[one]
        values[one] = node.call([values[n] for n in node.inputs])
    return values[number]


def trace(model: nn.Module | Graph) -> Graph:
    """The graph of a model or of a part of it, as in eval mode.

    Raises WrongType for what is no nn.Module, and Unsupported where torch.fx cannot follow its
    `forward`: Python that decides by the values of tensors.
    """
    if isinstance(model, Graph):
        return model
    model = unwrapped(model)
    for name, module in model.named_modules():
        if next(module.children(), None) and (module._forward_hooks or module._forward_pre_hooks):
            what = f"{name or type(model).__name__} has a forward hook"
            raise Unsupported(f"{what}, which may change what it computes", "remove it first")
    try:
        with evaluating(model):
            traced = _Tracer().trace(model)
    except Exception as error:  # whatever the model's own code does with what is no tensor
        reason = " ".join(str(error).split())[:200]
        raise Unsupported(
            f"{type(model).__name__} cannot be taken apart, torch.fx does not follow its forward"
            f" ({reason})",
            "hand in a part of it that is plain, such as its features; `occlude` takes any net",
        ) from error
    return _graph(model, traced)


def layers(model: nn.Module | Graph) -> list[str]:
    """The names of a model's maps, in the order of computation."""
    return trace(model).names


def paper_layers(model: nn.Module | Graph) -> dict[int, str]:
    """The rectified maps that stand for the paper's layers: {1: "relu1", …, 5: "relu5"}.

    With up to eight ReLUs each is a layer. Deeper nets (VGG, ResNet) give one for each size of the
    maps, the last through which everything passes: before each reduction, and the last of all;
    where those are fewer than five, the longest stretch is halved until there are five
    (SqueezeNet). Nets that never reduce give every ReLU.
    """
    graph = trace(model)
    body = [n for n in range(len(graph.nodes)) if not graph.nodes[n].name.startswith("classifier")]
    relus = [n for n in body if graph.nodes[n].kind == "relu" and graph.nodes[n].spatial]
    strides = _strides(graph)
    if len(relus) > 8 and len({strides[n] for n in relus}) > 1:
        passes, rectified = _bottlenecks(graph), _rectified(graph)
        stages: dict[int, list[int]] = {}
        for n in (n for n in body if n in passes and rectified[n]):
            stages.setdefault(strides[n], []).append(n)
        parts = list(stages.values())
        while len(parts) < 5 and len(longest := max(parts, key=len, default=())) > 1:
            at, half = parts.index(longest), (len(longest) + 1) // 2
            parts[at : at + 1] = longest[:half], longest[half:]
        relus = [part[-1] for part in parts]
    return {i: graph.nodes[n].name for i, n in enumerate(relus, start=1)}


def _bottlenecks(graph: Graph) -> set[int]:
    """The layers through which everything on the way to the output passes."""
    order = [n for n in graph.above(graph.output) if graph.nodes[n].kind != "value"]
    reach, found = 0, set()  # how far an edge from an earlier node goes
    ends = {n: max((m for m in order if n in graph.nodes[m].inputs), default=n) for n in order}
    for n in order:
        if reach <= n and graph.nodes[n].name in graph.names:
            found.add(n)
        reach = max(reach, ends[n])
    return found


def _plain(name: str) -> str:
    """The last part of a node's name, without the number of its call."""
    return name.rpartition(".")[2].partition(":")[0]


def _rectified(graph: Graph) -> list[bool]:
    """Which maps are rectified: by a ReLU, or put together from such maps."""
    found: list[bool] = []
    for node in graph.nodes:
        together = _plain(node.name) in ("cat", "concat", "getitem", *PLUMBING)
        maps = [n for n in node.inputs if graph.nodes[n].kind != "value"]
        whole = together and bool(maps) and all(found[n] for n in maps)
        found.append(node.spatial and (node.kind == "relu" or whole))
    return found


def _strides(graph: Graph) -> list[int]:
    """Pixels between neighbouring rows of each map; 0 for what is none."""
    strides = []
    for node in graph.nodes:
        before = max((strides[n] for n in node.inputs), default=1)
        strides.append(
            before * (node.kernel.stride[0] if node.kernel else 1) if node.spatial else 0
        )
    return strides


class _Tracer(fx.Tracer):
    """Follows everything down to the modules of torch.nn, subclasses of known ones included."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or isinstance(module, tuple(MODULES))


def _graph(model: nn.Module, traced: fx.Graph) -> Graph:
    """Our nodes from those of torch.fx."""
    modules = dict(model.named_modules())
    nodes: list[Node] = []
    numbers: dict[fx.Node, int] = {}
    taken: dict[str, int] = {}
    for one in traced.nodes:
        if one.op == "output":
            value = one.args[0]
            if isinstance(value, (tuple, list)):
                value = value[0]
            elif isinstance(value, dict):
                value = next(iter(value.values()))
            return Graph(model, tuple(nodes), numbers[value])
        if one.op == "placeholder" and nodes:  # a further argument, at its default
            continue
        node = _node(one, model, nodes, numbers, modules)
        taken[node.name] = taken.get(node.name, 0) + 1
        if taken[node.name] > 1:
            node = _replace(node, name=f"{node.name}:{taken[node.name]}")
        numbers[one] = len(nodes)
        nodes.append(node)
        # whoever reads later what was changed in place reads the changed values
        if node.inputs and _in_place(one, modules):
            numbers[one.all_input_nodes[0]] = numbers[one]
    raise Unsupported(f"{type(model).__name__} returns nothing")


def _replace(node: Node, **changes) -> Node:
    return Node(**{**vars(node), **changes})


def _in_place(one: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if one.op == "call_module":
        return getattr(modules[one.target], "inplace", False)
    name = _function(one)
    return name.endswith("_") or name in IN_PLACE or bool(one.kwargs.get("inplace"))


def _function(one: fx.Node) -> str:
    """The plain name of a function or method that is called."""
    if one.op == "call_function" and one.target is F.max_pool2d:  # dispatched by return_indices
        return "max_pool2d"
    return one.target if isinstance(one.target, str) else getattr(one.target, "__name__", "?")


def _name(one: fx.Node) -> str:
    """A module's own name; a function's, behind that of the module that calls it."""
    if one.op == "call_module":
        name = one.target
    else:
        stack = one.meta.get("nn_module_stack") or {}
        scope = next(reversed(stack.values()), ("",))[0] if stack else ""
        function = _function(one).rstrip("_")
        plain = {"iadd": "add", "imul": "mul", "isub": "sub"}.get(function, function)
        name = f"{scope}.{plain}" if scope else plain
    return name.removeprefix("features.")


def _node(one: fx.Node, model: nn.Module, nodes, numbers, modules) -> Node:
    """One node of ours: its kind, its inputs and how to compute it."""
    if one.op == "placeholder":
        return Node("image", "input")
    if one.op == "get_attr":
        get = operator.attrgetter(one.target)
        return Node(one.target, "value", (), lambda _: get(model), spatial=False)
    sources = [n for n in one.all_input_nodes if n in numbers]
    inputs = tuple(numbers[n] for n in sources)
    if _function(one) == "getitem" and _function(sources[0]) in ("chunk", "split"):
        several, index = nodes[inputs[0]], one.args[1]  # one node for each part, none for the tuple
        return _replace(
            several,
            name=_name(one),
            kind="linear",
            spatial=nodes[several.inputs[0]].spatial,
            global_=nodes[several.inputs[0]].global_,
            call=lambda values: several.call(values)[index],
        )
    read = [nodes[n] for n in inputs]
    name = _name(one)
    module = kernel = None
    why = ""
    if one.op == "call_module":
        module = modules[one.target]
        kind, why = _kind_of(module, name)
    else:
        function = _function(one)
        kind = KIND.get(function, "unknown")
        if kind in ("max", "average"):  # as the module would have it, for its geometry
            make = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            module = make(*one.args[1:], **{k: v for k, v in one.kwargs.items() if k != "input"})
        kind = _by_arguments(one, function, kind, read)
    maps = [node for node in read if node.kind != "value"]
    if kind == "gate" and len(maps) < 2:  # times a number or a buffer
        kind = "linear" if one.args[0] is not one.args[1] else "point"
    if kind == "gate" and sum(node.spatial for node in maps) > 1:
        kind, why = "point", f"{name} multiplies maps with each other"
    if kind == "sum" and (len(maps) < len(one.args) or one.kwargs or "sub" in name):
        kind = "linear"
    if kind == "linear" and "div" in name and one.args[1] in sources[:1] + sources[1:2]:
        kind = "linear" if read[sources.index(one.args[1])].kind == "value" else "unknown"
    limit = _limit(one, module) if kind == "relu" else None
    call = functools.partial(_relu, limit) if kind == "relu" else _call(one, sources, module, kind)
    if kind in ("conv", "max", "average"):
        kernel = Kernel.of(module)
    if kind in ("unknown", "point"):
        shown = type(module).__name__ if module is not None else f"{_function(one)}()"
        why = f"{why or f'{name} is a {shown}'}: there is no accepted rule for its way down"
        why += ' (rule="gradient" takes the plain gradient)'
    several = _function(one) in ("chunk", "split") and one.op != "call_module"
    spatial = kind not in ("value", "whole") and not several and any(n.spatial for n in maps)
    # whoever has a factor or a term that sees whole maps sees them, too
    mixed = spatial and not all(node.spatial for node in maps)
    global_ = kind == "unknown" or mixed or any(node.global_ for node in maps)
    return Node(name, kind, inputs, call, module, kernel, limit, spatial, global_, why)


def _kind_of(module: nn.Module, name: str) -> tuple[str, str]:
    """A module's kind, and why it has no rule where it has none."""
    shown = type(module).__name__
    base = next((base for base in MODULES if isinstance(module, base)), None)
    if base is None:
        return "unknown", f"{name} is a {shown}"
    own = type(module).forward is base.forward
    if base is nn.Conv2d:
        own = own and type(module)._conv_forward is base._conv_forward
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if not own:
        return "unknown", f"{name} is a {shown}, whose forward is not that of {base.__name__}"
    if any(not isinstance(hook, WEIGHT_HOOKS) for hook in hooks):
        return "unknown", f"{name} has a forward hook, which may change what it computes"
    if base is nn.Conv2d and module.padding_mode != "zeros":
        return "unknown", f"{name} has padding_mode={module.padding_mode!r}, not zeros"
    if base is nn.BatchNorm2d and module.running_mean is None:
        return "unknown", f"{name} has track_running_stats=False: it scales by the batch at hand"
    if base is nn.Hardtanh and module.min_val != 0:
        return "point", f"{name} is a Hardtanh from {module.min_val:g}, not from 0"
    if base is nn.AvgPool2d and module.divisor_override is not None:
        return "unknown", f"{name} has a divisor_override"
    return MODULES[base], ""


def _by_arguments(one: fx.Node, function: str, kind: str, read: list[Node]) -> str:
    """The kind of a function's call where that depends on what it is called with."""
    if not any(node.spatial or node.kind != "value" for node in read):
        return "value"
    if function == "getitem":
        index = one.args[1]
        if read[0].kind == "value":
            return "value"
        inside = index[2:] if isinstance(index, tuple) else ()
        return kind if all(part == slice(None) for part in inside) else "unknown"
    if function in ("view", "reshape") and read[0].spatial:
        return kind if _keeps_space(one.args[1:]) else "whole"
    if function == "transpose":  # of groups and channels, in a channel shuffle
        return kind if sorted(one.args[1:]) == [1, 2] and "view" in read[0].name else "unknown"
    if function in ("cat", "concat"):
        dim = one.kwargs.get("dim", one.args[1] if len(one.args) > 1 else 0)
        parts = one.args[0] if one.args else ()  # with one of them twice it has fewer inputs
        whole = len(parts) == len(read) and all(node.spatial for node in read)
        return (kind if whole else "linear") if dim in (1, -3) else "unknown"
    if kind == "linear" and function in ("chunk", "split"):
        dim = one.kwargs.get("dim", one.args[2] if len(one.args) > 2 else 0)
        return kind if dim in (1, -3) else "unknown"
    if function in ("hardtanh", "hardtanh_"):
        low = one.kwargs.get("min_val", one.args[1] if len(one.args) > 1 else -1.0)
        return kind if low == 0 else "point"
    if function in ("clamp_min", "clamp_min_"):
        return kind if one.args[1] == 0 else "point"
    return kind


def _keeps_space(shape: Sequence) -> bool:
    """Whether the last two of a view's sizes are the rows and columns of some map."""
    shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    if len(shape) < 4:
        return False
    found = []
    for part in shape[-2:]:
        if (isinstance(part, fx.Node) and part.target is operator.getitem) or (
            isinstance(part, fx.Node) and part.target == "size" and len(part.args) == 2
        ):
            found.append(part.args[1] % 4)
    return found == [2, 3]


def _limit(one: fx.Node, module: nn.Module | None) -> float | None:
    """Where a rectifier cuts off above: 6 for ReLU6; None for a ReLU."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return float(module.max_val)
    if module is None and _function(one) == "relu6":
        return 6.0
    if module is None and _function(one).startswith("hardtanh"):
        return float(one.kwargs.get("max_val", one.args[2] if len(one.args) > 2 else 1.0))
    return None


def _relu(limit: float | None, values: Sequence, inplace: bool = False) -> torch.Tensor:
    if limit is None:
        return F.relu(values[0], inplace)
    return values[0].clamp_(0, limit) if inplace else values[0].clamp(0, limit)


def _call(one: fx.Node, sources: list[fx.Node], module: nn.Module | None, kind: str) -> Callable:
    """How to compute a node, as in eval mode, from the outputs of what it reads."""
    works = isinstance(module, nn.LocalResponseNorm)
    works |= one.op != "call_module" and _function(one) in ("local_response_norm", "contiguous")
    if kind == "same" and not works:  # dropout and the like
        return lambda values: values[0]
    if kind == "norm":
        return lambda values: F.batch_norm(
            values[0],
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            eps=module.eps,
        )
    if kind == "max":
        return lambda values: F.max_pool2d(
            values[0],
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.ceil_mode,
        )
    places = {source: n for n, source in enumerate(sources)}
    target = IN_PLACE.get(_function(one), one.target)
    kept = {**one.kwargs, **({"inplace": False} if one.kwargs.get("inplace") else {})}

    def call(values: Sequence) -> object:
        args, kwargs = (
            fx.node.map_arg(part, lambda n: values[places[n]]) for part in (one.args, kept)
        )
        if one.op == "call_module":
            return _call_module(module, args, kwargs)
        if one.op == "call_method":
            return getattr(args[0], target.rstrip("_"))(*args[1:], **kwargs)
        return target(*args, **kwargs)

    return call


def _call_module(module: nn.Module, args: Sequence, kwargs: dict) -> object:
    """The module's output in eval mode; what it reads stays as it is."""
    if getattr(module, "inplace", False):
        args = [args[0].clone(), *args[1:]]
    if not module.training or isinstance(module, (nn.Conv2d, nn.Linear)):
        return module(*args, **kwargs)
    with evaluating(module):
        return module(*args, **kwargs)

"""A net and its deconvnet as one ONNX graph: up from an image, and down from a seed.

    model = to_onnx(net.model, {1: "relu1", …, 5: "relu5"}, 128)
    session.run(["outputs", "maps_5"], {"image": …, "down": False, "seed_1": zeros, …})
    session.run(["pixels"], {"image": …, "down": True, "seed_5": one unit's activation, …})

Inputs: `image` float (1, 3, S, S), normalised as the net's own; for each stage N `seed_N`, of the
size of its maps; `down`, bool: whether the way down is taken at all. Outputs: `outputs`, what the
model returns; `maps_N`; `pixels` (1, 3, S, S). A projection is linear in its seed only as far as
the next rectifier: all seeds but one have to be zero. Weights are stored once, for both ways.

Node by node from `graph.trace`, by the rules of `methods/deconv.py`: max pools hand down by their
switches, where windows overlap the sum; convolutions by the transposed convolution without bias;
rectifiers rectify the signal.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.trace import Graph, Node, Pair, trace
from zfnet.graph.walk import walk
from zfnet.store.errors import MissingPackage, Unsupported, UserError, require

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingPackage(
        "a page of a net needs the package onnx: pip install onnx onnxruntime"
    ) from error

OPSET = 17  # ScatterElements has its sums from 16 on, and old runtimes read it
IR = 8
FLAT = np.array([-1])


def to_onnx(
    model: nn.Module | Graph, stages: dict[int, str], size: int, half: bool = False
) -> onnx.ModelProto:
    """The net up to what it returns, and down from each of `stages` {number: layer}, for one image
    of `size` pixels a side, in float32.

    `half`: convolutions and linear layers keep their weights in half precision and compute with
    float32 of these. Raises Unsupported, by name, for an operation that has no counterpart here,
    and for weights beyond the range of half precision.
    """
    return _Export(trace(model), stages, size, half).model()


class _Export:
    """The graph while it is written: its nodes, its constants and its values' names by number."""

    def __init__(self, graph: Graph, stages: dict[int, str], size: int, half: bool):
        self.graph, self.size, self.half = graph, size, half
        self.stages = {number: graph.number(layer) for number, layer in stages.items()}
        self.nodes, self.constants = [], {}
        self.values: dict[int, str] = {0: "image"}
        self.switches: dict[int, str] = {}
        order = graph.above(graph.output, *self.stages.values())
        self.order = [n for n in order if n and graph.nodes[n].kind != "value"]
        image = torch.zeros(1, 3, size, size).to(graph.weight)
        with torch.no_grad():
            found = dict(walk(graph, image, [0, *self.order]))
        self.shapes = {number: tuple(value.shape) for number, value in found.items()}

    def model(self) -> onnx.ModelProto:
        for number in self.order:
            self.up(number)
        upward, self.nodes = self.nodes, []
        branches = {"then_branch": self.branch(self.down()), "else_branch": self.branch(None)}
        upward += [helper.make_node("If", ["down"], ["pixels"], "pixels", **branches)]
        names = {"outputs": self.graph.output}
        names |= {f"maps_{stage}": number for stage, number in self.stages.items()}
        upward += [
            helper.make_node("Identity", [self.values[number]], [name], name)
            for name, number in names.items()
        ]
        seeds = {f"seed_{stage}": self.shapes[number] for stage, number in self.stages.items()}
        graph = helper.make_graph(
            upward,
            "deconvnet",
            [
                _floats("image", self.shapes[0]),
                *(_floats(name, shape) for name, shape in seeds.items()),
                helper.make_tensor_value_info("down", TensorProto.BOOL, []),
            ],
            [
                *(_floats(name, self.shapes[number]) for name, number in names.items()),
                _floats("pixels", self.shapes[0]),
            ],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
        )
        onnx.checker.check_model(model)
        return model

    def branch(self, result: str | None) -> onnx.GraphProto:
        """The nodes written last as a branch of an If: what it gives is `result`, or zeros."""
        nodes, self.nodes = self.nodes, []
        if result is None:
            zeros = [self.constant("shape_0", np.array(self.shapes[0]))]
            nodes = [helper.make_node("ConstantOfShape", zeros, ["nothing"], "nothing")]
        name = result or "nothing"
        return helper.make_graph(nodes, f"{name}_branch", [], [_floats(name, self.shapes[0])])

    def add(self, kind: str, inputs: list[str], name: str, outputs: int = 1, **attributes):
        """One operation; the names of its outputs, or the name of its only one."""
        names = [name, *(f"{name}.{n}" for n in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, inputs, names, name, **attributes))
        return names if outputs > 1 else name

    def constant(self, name: str, value: torch.Tensor | np.ndarray) -> str:
        """A constant of that name: floats as float32, whole numbers as int64."""
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        self.constants.setdefault(name, np.ascontiguousarray(array))
        return name

    def weight(self, node: Node) -> str:
        """The module's weights, stored once for both ways."""
        weight, name = node.weight, f"{node.name.partition(':')[0]}.weight"
        if not self.half:
            return self.constant(name, weight)
        if name not in self.constants:
            rounded = weight.detach().cpu().half()
            if not rounded.isfinite().all():
                raise Unsupported(f"{node.name}: weights beyond the range of half precision")
            self.constants[name] = rounded.numpy()
            # made float32 once, as the runtime loads the graph
            self.nodes.insert(0, helper.make_node("Cast", [name], [f"{name}.float"], to=1))
        return f"{name}.float"

    # --- Up -----------------------------------------------------------------------------------

    def up(self, number: int) -> None:
        """Write what computes one node."""
        node = self.graph.nodes[number]
        sources = [n for n in node.inputs if self.graph.nodes[n].kind != "value"]
        rule = getattr(self, f"up_{node.kind}", None)
        if rule is None:
            raise _no_counterpart(node)
        self.values[number] = f"up_{number}"
        rule(number, node, [self.values[n] for n in sources], f"up_{number}")

    def pads(self, number: int, node: Node) -> list[int]:
        """Padding before and after the map: as much behind as the last window needs, so that no
        window depends on how a runtime rounds.
        """
        kernel, inputs = node.kernel, self.shapes[node.inputs[0]][-2:]
        needed = kernel.inputs(self.shapes[number][-2:])
        after = [max(0, m - n - p) for m, n, p in zip(needed, inputs, kernel.before, strict=True)]
        return [*kernel.before, *after]

    def geometry(self, node: Node) -> dict:
        kernel = node.kernel
        return {"kernel_shape": kernel.size, "strides": kernel.stride, "dilations": kernel.dilation}

    def up_conv(self, number: int, node: Node, read: list[str], name: str) -> None:
        inputs = [*read, self.weight(node)]
        if node.module.bias is not None:
            inputs.append(self.constant(f"up_{number}.bias", node.module.bias))
        kind = self.geometry(node) | {"group": node.module.groups, "pads": self.pads(number, node)}
        self.add("Conv", inputs, name, **kind)

    def up_max(self, number: int, node: Node, read: list[str], name: str) -> None:
        kind = self.geometry(node) | {"pads": self.pads(number, node)}
        _, self.switches[number] = self.add("MaxPool", read, name, 2, **kind)

    def up_average(self, number: int, node: Node, read: list[str], name: str) -> None:
        """Sums over the windows, and by how much each is divided: 9, say, or fewer at a border."""
        ones, kind = self.ones(number, node)
        x = torch.ones(1, 1, *self.shapes[node.inputs[0]][-2:]).to(self.graph.weight)
        channels = self.shapes[number][1]
        means = node.call([x.expand(1, channels, -1, -1)])[:, :1].detach().cpu()
        top, left, bottom, right = self.pads(number, node)
        padded = F.pad(x.cpu().float(), (left, right, top, bottom))
        rows, cols = node.kernel.size
        sums = F.conv2d(padded, torch.ones(1, 1, rows, cols), stride=node.kernel.stride)
        share = self.constant(f"up_{number}.share", means / sums)
        self.add("Conv", [*read, ones], f"{name}.sum", **kind)
        self.add("Mul", [f"{name}.sum", share], name)

    def ones(self, number: int, node: Node) -> tuple[str, dict]:
        """Filters that sum over the windows of an average pool, map by map."""
        channels = self.shapes[number][1]
        ones = self.constant(f"up_{number}.ones", np.ones((channels, 1, *node.kernel.size)) * 1.0)
        return ones, self.geometry(node) | {"group": channels, "pads": self.pads(number, node)}

    def up_relu(self, number: int, node: Node, read: list[str], name: str) -> None:
        if node.limit is None:
            self.add("Relu", read, name)
            return
        limits = [
            self.constant(f"{value:g}", np.float32(value)) for value in (0.0, float(node.limit))
        ]
        self.add("Clip", [*read, *limits], name)

    def up_norm(self, number: int, node: Node, read: list[str], name: str) -> None:
        scale = self.scale(number, node)
        module = node.module
        shift = -module.running_mean * _scale(module)
        shift = shift if module.bias is None else shift + module.bias
        shift = self.constant(f"up_{number}.shift", shift.view(1, -1, 1, 1))
        self.add("Mul", [*read, scale], f"{name}.scaled")
        self.add("Add", [f"{name}.scaled", shift], name)

    def scale(self, number: int, node: Node) -> str:
        return self.constant(f"up_{number}.scale", _scale(node.module).view(1, -1, 1, 1))

    def up_same(self, number: int, node: Node, read: list[str], name: str) -> None:
        if isinstance(node.module, nn.LocalResponseNorm) and node.module.size % 2:
            norm = node.module
            kind = {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "bias": norm.k}
            self.add("LRN", read, name, **{key: type(v)(v) for key, v in kind.items()})
        elif "response_norm" in node.name or isinstance(node.module, nn.LocalResponseNorm):
            raise _no_counterpart(node)
        else:
            self.add("Identity", read, name)

    def up_sum(self, number: int, node: Node, read: list[str], name: str) -> None:
        if {self.shapes[n] for n in node.inputs} != {self.shapes[number]}:
            raise _no_counterpart(node)
        self.add("Sum", read, name)

    def up_cat(self, number: int, node: Node, read: list[str], name: str) -> None:
        self.add("Concat", read, name, axis=1)

    def up_whole(self, number: int, node: Node, read: list[str], name: str) -> None:
        """The head: linear layers, means, other shapes for the same numbers."""
        source = self.shapes[node.inputs[0]]
        target, last = self.shapes[number], node.name.rpartition(".")[2].partition(":")[0]
        if isinstance(node.module, nn.Linear):
            inputs = [*read, self.weight(node)]
            if node.module.bias is not None:
                inputs.append(self.constant(f"up_{number}.bias", node.module.bias))
            require(len(source) == 2, f"{node.name}: expected rows of features", kind=Unsupported)
            self.add("Gemm", inputs, name, transB=1)
        elif np.prod(source) == np.prod(target) and last != "linear":
            shape = self.constant(f"up_{number}.shape", np.array(target))
            self.add("Reshape", [*read, shape], name)
        elif isinstance(node.module, nn.AdaptiveAvgPool2d) or last == "adaptive_avg_pool2d":
            means = [  # over rows, and over columns
                F.adaptive_avg_pool1d(torch.eye(n)[None], m)[0].T
                for n, m in zip(source[2:], target[2:], strict=True)
            ]
            rows = self.constant(f"up_{number}.rows", means[0])
            columns = self.constant(f"up_{number}.columns", means[1].T)
            self.add("MatMul", [rows, *read], f"{name}.rowwise")
            self.add("MatMul", [f"{name}.rowwise", columns], name)
        elif last == "mean" and source[:2] == target[:2]:
            keep = int(len(target) == len(source))
            self.add("ReduceMean", read, name, axes=[2, 3], keepdims=keep)
        else:
            raise _no_counterpart(node)

    # --- Down ---------------------------------------------------------------------------------

    def down(self) -> str:
        """Write the way down from all stages; the name of what arrives at the image."""
        signals = {n: f"seed_{stage}" for stage, n in self.stages.items()}
        way = {n for number in self.stages.values() for n in self.numbers_down(number)}
        for number in sorted(way - {0}, reverse=True):
            if number in signals:
                node = self.graph.nodes[number].required()
                for source, part in zip(
                    node.inputs, self.hand_down(number, node, signals[number]), strict=True
                ):
                    have = signals.get(source)
                    names = [have, part], f"at_{source}_from_{number}"
                    signals[source] = self.add("Add", *names) if have else part
        if 0 not in signals:
            raise UserError("no convolution lies below these layers", "choose layers behind one")
        return signals[0]

    def numbers_down(self, layer: int) -> list[int]:
        numbers = {id(node): n for n, node in enumerate(self.graph.nodes)}
        return [numbers[id(node)] for node in self.graph.way_down(layer)]

    def hand_down(self, number: int, node: Node, signal: str) -> list[str]:
        """What one node hands down to each of what it read."""
        name = f"down_{number}"
        if node.kind == "relu":
            return [self.add("Relu", [signal], name)]
        if node.kind == "same":
            return [signal]
        if node.kind == "sum":
            return [signal for _ in node.inputs]
        if node.kind == "norm":
            return [self.add("Mul", [signal, self.scale(number, node)], name)]
        if node.kind == "max":
            return [self.unpool(number, node, signal, name)]
        if node.kind == "conv":
            return [self.transposed(number, node, signal, self.weight(node), node.module.groups)]
        if node.kind == "average":
            ones, kind = self.ones(number, node)
            shared = self.add("Mul", [signal, f"up_{number}.share"], f"{name}.shared")
            return [self.transposed(number, node, shared, ones, kind["group"])]
        # a concatenation
        sizes = np.array([self.shapes[n][1] for n in node.inputs])
        inputs = [signal, self.constant(f"up_{number}.sizes", sizes)]
        parts = self.add("Split", inputs, name, len(sizes), axis=1)
        return [parts] if isinstance(parts, str) else parts

    def unpool(self, number: int, node: Node, signal: str, name: str) -> str:
        """Each value to where its maximum was; windows that share one add."""
        shape = self.shapes[node.inputs[0]]
        flat = self.constant("flat", FLAT)
        length = self.constant(f"length_{np.prod(shape)}", np.array([np.prod(shape)]))
        inputs = [
            self.add("ConstantOfShape", [length], f"{name}.zeros"),
            self.add("Reshape", [self.switches[number], flat], f"{name}.switches"),
            self.add("Reshape", [signal, flat], f"{name}.values"),
        ]
        self.add("ScatterElements", inputs, f"{name}.flat", axis=0, reduction="add")
        shape = self.constant(f"up_{number}.inputs", np.array(shape))
        return self.add("Reshape", [f"{name}.flat", shape], name)

    def transposed(self, number: int, node: Node, signal: str, weight: str, groups: int) -> str:
        """The transposed convolution without bias, to exactly the size of what the node read."""
        size, kernel = self.shapes[node.inputs[0]][-2:], node.kernel
        full = kernel.inputs(self.shapes[number][-2:])
        # beyond the map on the other side: what the padding took, or rows that no window reached
        behind = [f - p - n for f, p, n in zip(full, kernel.before, size, strict=True)]
        return self.add(
            "ConvTranspose",
            [signal, weight],
            f"down_{number}",
            **self.geometry(node),
            group=groups,
            pads=[*kernel.before, *(max(0, n) for n in behind)],
            output_padding=[max(0, -n) for n in behind],
        )


def _scale(module: nn.BatchNorm2d) -> torch.Tensor:
    """What batch norm multiplies each map by, in eval mode."""
    scale = (module.running_var + module.eps).rsqrt()
    return scale if module.weight is None else scale * module.weight


def _floats(name: str, shape: Pair) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _no_counterpart(node: Node) -> Unsupported:
    shown = type(node.module).__name__ if node.module is not None else node.kind
    return Unsupported(f"{node.name} ({shown}) has no counterpart on a page yet")

"""An ONNX graph cut in two at named tensors, and the search for where a decoupled detection head begins.

The end of such a graph (YOLOX and its kin), read from the output:

    output ◁ Transpose ◁ Concat of the levels ◁ Reshape ◁ Concat(box, objectness, class) ◁ three branches ◁ stem

and the tensor to carry between frames is each level's stem: the last one through which all three branches pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as UnknownOperator
from torch import Tensor

from keywarp.errors import UserError, unknown

RESHAPING = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"}


class Graph:
    """A detector's graph: one image in, one tensor out, shapes inferred. path: of an ONNX file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = _read(path)
        graph = self.model.graph
        weights = {w.name for w in graph.initializer}
        inputs = [i for i in graph.input if i.name not in weights]  # old files list the weights among the inputs
        if (len(inputs), len(graph.output)) != (1, 1):
            raise UserError(
                f"{path}: wanted a detector with one input and one output, "
                f"got {len(inputs)} inputs and {len(graph.output)} outputs"
            )
        self.input, self.output = inputs[0], graph.output[0]
        self.producers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output if name}

    def cut(self, boundaries: Sequence[str]) -> tuple[ModelProto, ModelProto]:
        """The graph up to the named tensors, and from them on; together they are the whole.

        Raises UserError where a name is not in the graph or the output depends on the image past the boundaries.
        """
        for name in boundaries:
            if name not in self.producers:
                raise UserError(
                    f"{self.path} has no tensor {name!r} to cut at; a viewer such as Netron shows their names"
                )
        if self.input.name in self.before([self.output.name], stop=boundaries):
            raise UserError(
                f"{self.path}: the tensors {', '.join(boundaries)} do not separate output from input; name one a level"
            )
        known = {value.name: value for value in self.model.graph.value_info}
        untyped = onnx.helper.make_tensor_value_info
        between = [known.get(name) or untyped(name, TensorProto.FLOAT, None) for name in boundaries]
        return self._part([self.input], between), self._part(between, [self.output])

    def _part(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        needed = self.before([value.name for value in outputs], stop=[value.name for value in inputs])
        nodes = [node for node in self.model.graph.node if needed.intersection(node.output)]
        used = {name for node in nodes for name in node.input}
        weights = [weight for weight in self.model.graph.initializer if weight.name in used]
        return onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "part", inputs, outputs, weights),
            ir_version=self.model.ir_version,
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
        )

    def before(self, names: Collection[str], stop: Collection[str] = ()) -> set[str]:
        """The tensors, inputs and weights that the named ones depend on, themselves included; not those of `stop`."""
        seen: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in seen or name in stop:
                continue
            seen.add(name)
            if name in self.producers:
                waiting += [source for source in self.producers[name].input if source]
        return seen

    def stems(self) -> tuple[str, ...] | None:
        """The tensors to cut at, one a level in the output's order; None where the graph does not end as above."""
        levels = self._concatenation(self.output.name)
        if levels is None:
            return None
        stems = []
        for level in levels.input:
            joint = self._concatenation(level)
            stem = self._stem(joint) if joint is not None and len(joint.input) == 3 else None
            if stem is None:
                return None
            stems.append(stem)
        return tuple(stems)

    def _concatenation(self, name: str) -> NodeProto | None:
        """The Concat that a tensor comes from by nothing but changes of its shape."""
        while (node := self.producers.get(name)) is not None and node.op_type in RESHAPING:
            name = node.input[0]
        return node if node is not None and node.op_type == "Concat" else None

    def _stem(self, joint: NodeProto) -> str | None:
        """The last tensor through which every way from the image to all branches of a level passes."""
        common = set.intersection(*(self.before([branch]) for branch in joint.input))
        for name in reversed(self.producers):  # nodes are in order of computation
            if name in common and self.input.name not in self.before(joint.output, stop=[name]):
                return name
        return None


def _read(path: Path) -> ModelProto:
    if not path.is_file():
        raise UserError(f"no model file {path}; wanted an ONNX detector")
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise DecodeError("no graph in it")
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (DecodeError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"{path} is not a readable ONNX file ({_first_line(error)}); wanted a YOLOX export") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def shape_of(value: ValueInfoProto) -> list[int | str]:
    """The dimensions of a graph's input or output; a name or "?" where one is open."""
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def session(
    model: ModelProto, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Callable[..., list[Tensor]]:
    """A function that runs the graph: float32 tensors in the order of its inputs to those of its outputs, on the CPU.

    threads: by default as many as torch uses. providers: onnxruntime's execution providers, the first one preferred.
    Outputs share memory with onnxruntime's, contiguous CPU inputs are not copied either.
    """
    for provider in providers:
        if provider not in onnxruntime.get_available_providers():
            raise unknown("onnxruntime provider", provider, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Spinning threads of onnxruntime take the cores from torch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=list(providers))
    except (Fail, InvalidGraph, UnknownOperator) as error:
        raise UserError(f"onnxruntime cannot run this graph ({_first_line(error)}); export it again") from error
    names = [value.name for value in runtime.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        # Propagated features arrive channels-last.
        arrays = {name: x.cpu().float().contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in runtime.run(None, arrays)]

    return run

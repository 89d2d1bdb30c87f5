"""An operator of a file under verification, and its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import FlatbufferError, constant, items, op_name, text, type_name

# NONE, RELU, RELU_N1_TO_1, RELU6.
_ACTIVATIONS = range(4)


class Node:
    """An operator and its tensors.

    Attributes:
        model: what `parse` returned.
        op: the operator's name.
        inputs: its input tensors; None for one that is left out.
        outputs: its output tensors.
        options: its attributes, or None.
    """

    def __init__(self, model: Any, operator: Any) -> None:
        tensors = model.subgraphs[0].tensors
        self.model, self.op, self.options = model, op_name(model, operator), operator.builtinOptions
        self.inputs: list[Any] = [tensors[i] if i >= 0 else None for i in items(operator.inputs)]
        self.outputs = [tensors[i] for i in items(operator.outputs)]

    def need(self, condition: bool, problem: str) -> None:
        """Refuse the file unless a condition holds."""
        if not condition:
            raise FlatbufferError(f"{self.op} {text(self.outputs[0].name) if self.outputs else ''!r} {problem}")

    def shape(self, position: int) -> list[int]:
        """Shape of an input, which must be there."""
        self.need(position < len(self.inputs) and self.inputs[position] is not None, f"has no input {position}")
        return items(self.inputs[position].shape)

    def kind(self, position: int) -> str:
        """Type of an input."""
        self.shape(position)
        return type_name(self.inputs[position])

    @property
    def out(self) -> list[int]:
        """Shape of the first output."""
        return items(self.outputs[0].shape)

    def constant(self, position: int, kind: str = "INT32") -> np.ndarray:
        """Values of an input, which must be a constant of that type."""
        self.need(self.kind(position) == kind, f"has an input {position} of type {self.kind(position)}, not {kind}")
        values = constant(self.model, self.inputs[position])
        self.need(values is not None, f"has an input {position} that is not constant")
        return np.asarray(values)

    def attributes(self, name: str) -> Any:
        """The options, which must be of that class."""
        self.need(type(self.options).__name__ == f"{name}T", f"lacks its attributes, {name}")
        activation = getattr(self.options, "fusedActivationFunction", 0)
        self.need(activation in _ACTIVATIONS, f"has the unknown activation {activation}")
        return self.options

    def gives(self, shape: list[int]) -> None:
        """Hold the first output to a shape."""
        self.need(self.out == shape, f"has an output of shape {self.out}, not {shape}")

    def counts(self, inputs: tuple[int, ...], outputs: int = 1) -> None:
        """Hold the operator to its numbers of inputs and outputs."""
        found = len(self.inputs), len(self.outputs)
        self.need(found[0] in inputs and found[1] == outputs, f"has {found[0]} inputs and {found[1]} outputs")

    def same_types(self, positions: tuple[int, ...]) -> None:
        """Hold inputs to the type of the output."""
        kinds = [self.kind(position) for position in positions] + [type_name(self.outputs[0])]
        self.need(len(set(kinds)) == 1, f"mixes the types {', '.join(kinds)}")

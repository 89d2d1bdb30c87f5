"""`small_cnn` in PyTorch with the weights of a Keras model, for attacks that exist for PyTorch only."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def _same(size: int, stride: int) -> tuple[int, int]:
    """Padding before and after, as TensorFlow's "same" with a kernel of 3."""
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    return total // 2, total - total // 2


class SmallCNN(nn.Module):
    """`keras_esq.models.small_cnn`: takes images (n, channels, height, width), returns logits."""

    def __init__(self, model):
        super().__init__()
        self.stages, size = nn.ModuleList(), model.input_shape[1]
        for number in (1, 2, 3):
            conv, bn = model.get_layer(f"conv{number}"), model.get_layer(f"bn{number}")
            stride = conv.strides[0]
            kernel = torch.tensor(np.transpose(conv.kernel.numpy(), (3, 2, 0, 1)))
            one = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride, bias=False)
            two = nn.BatchNorm2d(kernel.shape[0], eps=bn.epsilon)
            gamma, beta, mean, variance = (torch.tensor(w) for w in bn.get_weights())
            with torch.no_grad():
                one.weight.copy_(kernel)
                two.weight.copy_(gamma), two.bias.copy_(beta)
                two.running_mean.copy_(mean), two.running_var.copy_(variance)
            before, after = _same(size, stride)
            self.stages.append(nn.Sequential(nn.ZeroPad2d((before, after, before, after)), one, two, nn.ReLU()))
            size = -(-size // stride)
        kernel, bias = (torch.tensor(w) for w in model.get_layer("logits").get_weights())
        self.head = nn.Linear(*kernel.shape)
        with torch.no_grad():
            self.head.weight.copy_(kernel.T), self.head.bias.copy_(bias)
        self.eval()

    def forward(self, x):
        """Logits (n, classes)."""
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))


def to_torch(x):
    """Images (n, h, w, c) to a tensor (n, c, h, w)."""
    return torch.tensor(np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))))


def to_numpy(x):
    """The way back."""
    return np.ascontiguousarray(np.transpose(x.detach().numpy(), (0, 2, 3, 1)))

"""The pieces of the teaching notebook against loops written from the definition, numbers worked by
hand, and autograd.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zfnet import Deconvnet
from zfnet.experiments.transposed_convolution.compute import (
    convolution_matrix,
    grid_periods,
    overlap_differences,
    pool_collisions,
    pooling_matrix,
    ruled_gradient,
    shared_switches,
    walk,
)
from zfnet.experiments.transposed_convolution.figure import draw_array, matrix_figure, walk_figure
from zfnet.methods.deconv import RULES, unpool


def slow_matrix(weight, size, stride, padding):
    """A[output, pixel], weight by weight: output (o, r, c) reads pixel (i, r*stride - padding + a,
    c*stride - padding + b) with weight[o, i, a, b].
    """
    rows, cols = (
        (n + 2 * padding - k) // stride + 1 for n, k in zip(size, weight.shape[2:], strict=True)
    )
    matrix = np.zeros((weight.shape[0], rows, cols, weight.shape[1], *size))
    for o, i, a, b in np.ndindex(*weight.shape):
        for r, c in np.ndindex(rows, cols):
            y, x = r * stride - padding + a, c * stride - padding + b
            if 0 <= y < size[0] and 0 <= x < size[1]:
                matrix[o, r, c, i, y, x] += float(weight[o, i, a, b])
    return torch.from_numpy(matrix.reshape(weight.shape[0] * rows * cols, -1))


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [((1, 1, 3, 3), (4, 4), 1, 0), ((2, 3, 3, 2), (5, 6), 2, 1), ((3, 2, 2, 2), (7, 4), 3, 0)],
)
def test_the_matrix_of_a_convolution(shape, size, stride, padding):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    matrix = convolution_matrix(weight, size, stride, padding)
    assert torch.equal(matrix, slow_matrix(weight, size, stride, padding))
    image = torch.randn(1, shape[1], *size, dtype=torch.float64)
    output = F.conv2d(image, weight, stride=stride, padding=padding)
    torch.testing.assert_close(matrix @ image.flatten(), output.flatten(), rtol=1e-12, atol=1e-13)
    missing = [
        n - ((m - 1) * stride - 2 * padding + k)
        for n, m, k in zip(size, output.shape[2:], shape[2:], strict=True)
    ]
    down = F.conv_transpose2d(
        output, weight, stride=stride, padding=padding, output_padding=missing
    )
    torch.testing.assert_close(matrix.T @ output.flatten(), down.flatten(), rtol=1e-12, atol=1e-13)


def test_a_kernel_that_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match=r"size = \(2, 4\): too small for a kernel of \(3, 3\) with padding 0"
    ):
        convolution_matrix(torch.ones(1, 1, 3, 3), (2, 4))


def test_unpooling_by_adding_is_the_transpose_of_pooling_and_the_other_rules_are_not():
    torch.manual_seed(0)
    maps = torch.randn(1, 1, 7, 9, dtype=torch.float64)
    pooled, switches = F.max_pool2d(maps, 3, 2, return_indices=True)
    matrix, signal = (
        pooling_matrix(switches[0, 0], (7, 9)),
        torch.randn(pooled.shape, dtype=torch.float64),
    )
    assert (
        torch.equal(matrix @ maps.flatten(), pooled.flatten())
        and matrix.sum(1).tolist() == [1.0] * pooled.numel()
    )
    assert shared_switches(switches).any()
    torch.testing.assert_close(
        matrix.T @ signal.flatten(),
        unpool(signal, switches, maps.shape).flatten(),
        rtol=1e-14,
        atol=0,
    )
    for rule in ("overwrite", "max"):
        assert not torch.allclose(
            matrix.T @ signal.flatten(), unpool(signal, switches, maps.shape, rule).flatten()
        )


def test_shared_switches_by_hand():
    switches = torch.tensor(
        [[[[4, 4], [9, 7]], [[1, 2], [3, 4]]], [[[0, 5], [5, 5]], [[8, 1], [1, 8]]]]
    )
    assert shared_switches(switches).int().tolist() == [
        [[[1, 1], [0, 0]], [[0, 0], [0, 0]]],
        [[[0, 1], [1, 1]], [[1, 1], [1, 1]]],
    ]


def test_collisions_are_counted_over_all_windows_and_over_those_that_fire():
    """A 3x3/2 pool of 5x5 maps. One peak in the middle: its four windows share. Peaks apart: none.
    Nothing: first cells 0, 2, 10, 12.
    """
    identity = nn.Conv2d(3, 3, 1, bias=False)
    identity.weight.data = torch.eye(3)[..., None, None]
    net = nn.Sequential(identity, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.ReLU())
    image = torch.zeros(1, 3, 5, 5)
    image[0, 0, 2, 2] = 1
    image[0, 1, 0, 2] = 3  # of the two upper windows; the lower two see nothing
    found = pool_collisions(net, image)
    assert list(found) == ["2"] and found["2"] == pytest.approx((6 / 12, 1.0))
    image[0, 1, 0, 0] = 5  # takes the left window
    assert pool_collisions(net, image)["2"] == pytest.approx((4 / 12, 4 / 6))


IMAGE = torch.tensor(
    [
        [2, 2, 3, 2, 1, 3],
        [2, 0, 2, 0, 0, 1],
        [1, 3, 3, 0, 2, 0],
        [3, 0, 0, 1, 1, 2],
        [2, 3, 1, 3, 0, 1],
        [1, 2, 1, 3, 0, 2],
    ]
).double()
KERNEL, SIGNAL = torch.tensor([[1, -1], [2, 0]]).double(), torch.tensor([[5, 2], [-3, 4]]).double()


def test_the_walk_of_the_notebook_by_hand():
    found = walk(IMAGE, KERNEL, -1.0, SIGNAL)
    assert found.convolved[0].tolist() == [
        2 - 2 + 4 - 1,
        2 - 3 + 0 - 1,
        3 - 2 + 4 - 1,
        2 - 1 + 0 - 1,
        1 - 3 + 0 - 1,
    ]
    assert found.pooled.tolist() == [[7, 7], [6, 8]]
    assert found.switches.tolist() == [[7, 7], [15, 23]]
    for rule, shared in {"add": 7.0, "overwrite": 2.0, "max": 5.0}.items():
        unpooled = torch.zeros(5, 5, dtype=torch.float64)
        unpooled[1, 2], unpooled[3, 0], unpooled[4, 3] = shared, -3, 4
        assert torch.equal(found.unpooled[rule], unpooled) and torch.equal(
            found.kept[rule], unpooled.relu()
        )
        picture = torch.zeros(6, 6, dtype=torch.float64)
        picture[1, 2], picture[1, 3], picture[2, 2] = shared, -shared, 2 * shared
        picture[4, 3], picture[4, 4], picture[5, 3] = 4, -4, 8
        assert torch.equal(found.picture[rule], picture), rule


def test_a_signal_of_another_size_is_named():
    with pytest.raises(
        ValueError, match=r"signal: expected the size of the pooled map, \(2, 2\), got \(3, 2\)"
    ):
        walk(IMAGE, KERNEL, 0.0, torch.zeros(3, 2))


def small_net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 5, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(5, 6, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
    ).double()


@pytest.mark.parametrize("rule", RULES)
def test_autograd_with_another_relu_rule_is_the_deconvnet_with_it(rule, report):
    net, image = small_net(), torch.randn(1, 3, 33, 30, dtype=torch.float64)
    fires = (net(image)[0] > 0).nonzero()
    unit = fires[len(fires) // 2].tolist()
    by_hand = Deconvnet(net).project(image, "6", unit[0], unit[1:], rule=rule)
    by_autograd = ruled_gradient(net, image, unit[0], unit[1:], rule)
    assert by_hand.any()
    error = float((by_hand - by_autograd).norm() / by_autograd.norm())
    report(f"autograd with rule {rule!r} against the deconvnet with it: relative error {error:.1e}")
    assert error <= 1e-12


def test_the_gradient_rule_is_autograd_left_alone():
    net, image = small_net(), torch.randn(1, 3, 33, 30, dtype=torch.float64, requires_grad=True)
    channel, row, col = (net(image)[0] > 0).nonzero()[0].tolist()
    activation = net(image)[0, channel, row, col]
    (expected,) = torch.autograd.grad(activation, image)
    found = ruled_gradient(net, image, channel, (row, col), "gradient")
    torch.testing.assert_close(found, expected * activation.detach(), rtol=1e-12, atol=1e-14)


def test_an_unknown_rule_is_named():
    with pytest.raises(
        ValueError, match="rule = 'grad': choose one of deconvnet, guided, gradient"
    ):
        ruled_gradient(small_net(), torch.zeros(1, 3, 33, 30), 0, (0, 0), "grad")


def test_differences_are_relative_to_add_image_by_image():
    net = small_net()
    images = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    maps = net(images).detach()
    channel, position = maps.flatten(2).amax(2).argmax(1), []
    for m, c in zip(maps, channel, strict=True):
        position.append(divmod(int(m[c].argmax()), m.shape[2]))
    found = overlap_differences(Deconvnet(net), images, "6", channel, torch.tensor(position))
    assert list(found) == ["overwrite", "max"]
    for rule, values in found.items():
        for n in range(3):
            add, other = (
                Deconvnet(net)
                .project(images[n : n + 1], "6", channel[n], position[n], overlap)
                .numpy()
                for overlap in ("add", rule)
            )
            assert values[n].item() == pytest.approx(
                np.sqrt(((other - add) ** 2).sum() / (add**2).sum()), rel=1e-10
            )
    assert found["overwrite"].max() > 0


def test_the_grids_periods_are_those_of_its_waves():
    x = torch.arange(96.0)
    waves = {32: 50, 4: 3, 3: 2, 2: 0.5, 6: 1}  # period: amplitude; the longest is no fine grid
    row = sum(
        amplitude * torch.cos(2 * torch.pi * x / period + 1) for period, amplitude in waves.items()
    )
    pictures = torch.randn(5, 3, 20, 1) * row
    assert grid_periods(pictures, below=8, count=3) == pytest.approx([4, 3, 6])
    assert grid_periods(pictures, below=4) == pytest.approx([3, 2])


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_cells_show_the_numbers():
    figure, axis = plt.subplots()
    draw_array(
        axis,
        torch.tensor([[1.0, -2.5], [-0.0, 30.0]]),
        (0, 0),
        "four",
        {(0, 1): ("red", "blue"), (1, 1): "green"},
    )
    assert texts(figure) == ["1", "\N{MINUS SIGN}2.5", "0", "30", "four"]
    assert len(axis.patches) == 4 + 3  # frames, two triangles and one whole cell
    plt.close(figure)


@pytest.mark.slow
def test_the_figures_say_which_rule_keeps_the_product():
    figure = walk_figure(walk(IMAGE, KERNEL, -1.0, SIGNAL), "up and down")
    said = " ".join(texts(figure))
    assert (
        "5 and 2 \N{RIGHTWARDS ARROW} 7" in said
        and "5 and 2 \N{RIGHTWARDS ARROW} 2" in said
        and "5 and 2 \N{RIGHTWARDS ARROW} 5" in said
    )
    assert (
        "= 63  =  63" in said
        and "= 28  \N{NOT EQUAL TO}  63" in said
        and "= 49  \N{NOT EQUAL TO}  63" in said
    )
    image, kernel = IMAGE[:4, :4], torch.tensor([[1, 2, 0], [0, -1, 1], [3, 0, 1]]).double()
    signal = torch.tensor([[1, 2], [3, -1]]).double()
    down = F.conv_transpose2d(signal[None, None], kernel[None, None])[0, 0]
    both = float((image * down).sum())
    figure = matrix_figure(image, kernel, signal, "matrix")
    assert f"sum to {both:g}; those of x with $A^T y$ to {both:g}" in " ".join(
        text.get_text() for text in figure.texts
    ).replace("\n", " ")
    plt.close("all")

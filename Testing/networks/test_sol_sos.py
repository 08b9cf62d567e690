import pytest
import torch
from focusnet.networks.sol import SOLNet
from focusnet.networks.sos import PlainSOSNet, UNetSOSNet


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


def assert_every_gradient(network):
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_sol_parameter_count():
    assert parameter_count(SOLNet(32, 6)) == pytest.approx(56.7e3, rel=0.001)


def test_plain_sos_parameter_count():
    assert parameter_count(PlainSOSNet(33)) == pytest.approx(115e3, rel=0.001)


def test_unet_sos_parameter_count():
    # the released mini U-Net has 1.610 M; ours has one residual block per level and takes the S-Net feature
    assert parameter_count(UNetSOSNet(33)) == pytest.approx(1.197e6, rel=0.001)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_sol_shapes_and_gradients(norm):
    torch.manual_seed(0)
    network = SOLNet(8, 3, norm)
    out = network(torch.randn(1, 8, 4, 8, 10))
    assert out.logits.shape == out.heatmaps.shape == (1, 3, 4, 8, 10)
    torch.testing.assert_close(out.heatmaps, out.logits.sigmoid())
    out.heatmaps.square().sum().backward()
    assert_every_gradient(network)


def test_heat_maps_start_nearly_empty():
    torch.manual_seed(0)
    with torch.no_grad():
        assert SOLNet(32, 6)(torch.randn(1, 32, 4, 16, 16)).heatmaps.max() < 0.05


def test_heat_maps_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert SOLNet(4, 2)(torch.randn(1, 4, 2, 4, 4)).heatmaps.dtype == torch.float32


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("build", [PlainSOSNet, lambda c, w, norm: UNetSOSNet(c, (w, w, 2 * w), w, norm=norm)])
def test_sos_shapes_and_gradients(build, batch, norm):
    torch.manual_seed(0)
    network = build(5, 8, norm=norm)
    logits = network(torch.randn(batch, 5, 4, 16, 12))
    assert logits.shape == (batch, 1, 4, 16, 12)
    logits.square().sum().backward()
    assert_every_gradient(network)


def test_first_answer_of_sos_is_undecided():
    torch.manual_seed(0)
    with torch.no_grad():
        probability = PlainSOSNet(33)(torch.randn(1, 33, 4, 16, 16)).sigmoid()
    assert (probability - 0.5).abs().max() < 0.2

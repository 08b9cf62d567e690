import pytest
import torch
from focusnet.networks.snet import SNet

SMALL = {"num_classes": 3, "widths": (4, 6, 8), "growth": 4}


def parameter_count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_count_is_the_literal_reading_of_table_10():
    # 2.370 M in METHOD §8; 0.1 % of difference is bias and norm terms that the table does not print
    assert parameter_count(SNet(23)) == pytest.approx(2.370e6, rel=0.002)


def test_shapes():
    out = SNet(**SMALL)(torch.randn(1, 1, 4, 16, 12))
    assert out.logits.shape == (1, 3, 4, 16, 12)
    assert out.features.shape == (1, 4, 4, 16, 12)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_parameter_receives_a_gradient(norm):
    torch.manual_seed(0)
    network = SNet(**SMALL, norm=norm)
    network(torch.randn(2, 1, 4, 24, 24)).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "shape", [(1, 1, 3, 8, 8), (1, 1, 2, 6, 8), (1, 1, 2, 8, 10), (1, 2, 2, 8, 8), (1, 1, 0, 8, 8)]
)
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="S-Net"):
        SNet(**SMALL)(torch.zeros(shape))

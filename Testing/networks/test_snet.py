import pytest
import torch
from focusnet.networks.snet import SNet

SMALL = {"num_classes": 3, "widths": (4, 6, 8), "growth": 4}
CHANNELS_LAST = torch.channels_last_3d


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_count_is_the_literal_reading_of_table_10():
    # 2.370 M by the layers of the table: the difference of 0.1 % is in biases and norm terms, which it does not print.
    assert parameter_count(SNet(23)) == pytest.approx(2.370e6, rel=0.002)


def test_parameter_count_at_the_released_growth():
    assert parameter_count(SNet(23, growth=32)) == pytest.approx(1.963e6, rel=0.002)


@pytest.mark.parametrize("widths", [(4, 6, 8), (16, 24, 32)])
@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 16, 12), (6, 8, 20)])
def test_shapes(widths, shape):
    network = SNet(3, widths, growth=4)
    with torch.no_grad():
        out = network(torch.randn(1, 1, *shape))
    assert network.features == widths[0]
    assert out.logits.shape == (1, 3, *shape)
    assert out.features.shape == (1, widths[0], *shape)
    assert out.logits.isfinite().all()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_parameter_receives_a_gradient(norm, batch):
    torch.manual_seed(0)
    network = SNet(3, (8, 12, 16), growth=8, norm=norm)
    network(torch.randn(batch, 1, 4, 24, 24)).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_smallest_chunk_can_be_trained():
    network = SNet(**SMALL)
    network(torch.randn(1, 1, 2, 4, 4)).logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    "shape", [(1, 1, 3, 8, 8), (1, 1, 2, 6, 8), (1, 1, 2, 8, 10), (1, 2, 2, 8, 8), (1, 1, 0, 8, 8), (1, 2, 8, 8)]
)
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="S-Net"):
        SNet(**SMALL)(torch.zeros(shape))


def test_samples_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    network = SNet(**SMALL).eval()
    batch = torch.randn(2, 1, 4, 8, 8)
    with torch.no_grad():
        together = network(batch).logits
        alone = torch.cat([network(sample).logits for sample in batch.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_translated_chunk_gives_translated_logits():
    # cyclic shift of an object in an empty surround by whole cells of the coarsest level
    step, axes = (2, 4, -8), (2, 3, 4)
    torch.manual_seed(0)
    network = SNet(3, (4, 6, 8), growth=4, dilations=(1, 2), norm="batch").eval()
    for module in network.modules():
        if hasattr(module, "reduce"):
            torch.nn.init.zeros_(module.reduce.weight)  # the gate's mean sees the padding; silence it
    ct = torch.zeros(1, 1, 40, 96, 96)
    ct[..., 18:22, 44:52, 40:48] = torch.randn(4, 8, 8)
    with torch.no_grad():
        here = network(ct).logits
        there = network(ct.roll(step, axes)).logits
    middle = (..., slice(16, 24), slice(40, 56), slice(36, 56))
    assert here[middle].std() > 1e-4
    torch.testing.assert_close(there.roll([-s for s in step], axes)[middle], here[middle], atol=1e-5, rtol=1e-4)


def test_mirrored_weights_answer_a_mirrored_chunk_with_the_mirrored_answer():
    # every stage treats left and right alike: pooling cells, padding, dilation and enlargement are symmetric
    torch.manual_seed(0)
    network, mirrored = SNet(**SMALL), SNet(**SMALL)
    weights = {k: v.flip(-1) if v.ndim == 5 else v for k, v in network.state_dict().items()}
    mirrored.load_state_dict(weights, strict=True)
    ct = torch.randn(1, 1, 4, 12, 16)
    with torch.no_grad():
        expected, got = network(ct).logits.flip(-1), mirrored(ct.flip(-1)).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_network_tells_left_from_right():
    torch.manual_seed(0)
    network = SNet(**SMALL)
    ct = torch.randn(1, 1, 4, 12, 16)
    with torch.no_grad():
        assert not torch.allclose(network(ct.flip(-1)).logits, network(ct).logits.flip(-1), atol=1e-3)


def test_weights_load_strictly():
    torch.manual_seed(0)
    one, other = SNet(**SMALL), SNet(**SMALL)
    other.load_state_dict(one.state_dict(), strict=True)
    ct = torch.randn(1, 1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(one(ct).logits, other(ct).logits)
    with pytest.raises(RuntimeError, match="Missing key"):
        SNet(3, (4, 6, 8), growth=4, norm="batch").load_state_dict(one.state_dict(), strict=True)


def test_seed_decides_the_weights():
    torch.manual_seed(7)
    one = SNet(**SMALL).state_dict()
    torch.manual_seed(7)
    other = SNet(**SMALL).state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_first_answer_is_nearly_uniform():
    torch.manual_seed(0)
    with torch.no_grad():
        probabilities = SNet(4, (16, 24, 32), growth=16)(torch.randn(1, 1, 4, 16, 16)).logits.softmax(1)
    assert probabilities.min() > 0.1
    assert probabilities.max() < 0.5


def test_bfloat16_channels_last_stays_close_to_float32():
    torch.manual_seed(0)
    network = SNet(4, (16, 24, 32), growth=16)
    ct = torch.randn(1, 1, 8, 32, 32)
    with torch.no_grad():
        exact = network(ct).features
        with torch.autocast("cpu", torch.bfloat16):
            out = network.to(memory_format=CHANNELS_LAST)(ct.to(memory_format=CHANNELS_LAST))
    assert out.features.dtype == torch.bfloat16
    assert out.features.is_contiguous(memory_format=CHANNELS_LAST)
    assert (out.features.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_compiles_as_one_graph():
    torch.manual_seed(0)
    network = SNet(**SMALL)
    ct = torch.randn(1, 1, 2, 8, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ct).logits, network(ct).logits)

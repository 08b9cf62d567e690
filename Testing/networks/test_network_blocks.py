import pytest
import torch
from focusnet.networks.blocks import (
    DenseASPP,
    InstanceNorm,
    SEResBlock,
    SqueezeExcitation,
    UpBlock,
    initialise,
    initialise_head,
    make_norm,
    max_pool,
    upsample,
)
from torch import nn

CHANNELS_LAST = torch.channels_last_3d


def influence(network, shape, at):
    """Input voxels (bool, z, y, x) that the output voxel ``at`` depends on."""
    x = torch.randn(shape, requires_grad=True)
    network(x)[(0, slice(None), *at)].sum().backward()
    return x.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm_equals_group_norm_of_single_channels(batch):
    torch.manual_seed(0)
    norm = InstanceNorm(6)
    reference = nn.GroupNorm(6, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    reference.load_state_dict(norm.state_dict())
    x = torch.randn(batch, 6, 3, 5, 4) * 3 + 2
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    target = torch.randn_like(x)
    (norm(mine) * target).sum().backward()
    (reference(theirs) * target).sum().backward()
    torch.testing.assert_close(norm(x), reference(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.weight.grad, reference.weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.bias.grad, reference.bias.grad, atol=1e-4, rtol=1e-4)


def test_instance_norm_is_the_same_in_evaluation():
    norm = InstanceNorm(3)
    x = torch.randn(2, 3, 2, 4, 4)
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_instance_norm_of_one_voxel_is_the_bias():
    norm = InstanceNorm(2)
    nn.init.constant_(norm.bias, 0.5)
    x = torch.tensor([3.0, -7.0]).view(1, 2, 1, 1, 1)
    torch.testing.assert_close(norm(x), torch.full_like(x, 0.5), atol=1e-3, rtol=0)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="layer"):
        make_norm("layer", 4)


def test_squeeze_excitation_mean_is_accurate_in_bfloat16():
    # summing 200,000 values near one in bfloat16 would stop growing at 256
    gate = SqueezeExcitation(2, 1)
    with torch.no_grad():
        gate.reduce.weight.copy_(torch.eye(2))
        gate.expand.weight.copy_(torch.eye(2))
        gate.reduce.bias.zero_()
        gate.expand.bias.zero_()
    x = torch.stack([torch.full((8, 160, 160), 0.75), torch.full((8, 160, 160), 2.0)])[None].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = gate(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().flatten(), torch.sigmoid(torch.tensor([0.75, 2.0])), atol=2e-3, rtol=0)


def test_block_is_the_shortcut_when_its_second_convolution_is_zero():
    block = SEResBlock(4, 4)
    nn.init.zeros_(block.second[2].weight)
    x = torch.randn(1, 4, 3, 6, 5)
    assert torch.equal(block(x), x)


def test_block_scales_its_residual_by_the_gate():
    block = SEResBlock(3, 5)
    x = torch.randn(2, 3, 3, 6, 5)
    residual = block.second(block.first(x))
    mean = residual.mean((2, 3, 4))
    gate = torch.sigmoid(block.gate.expand(torch.relu(block.gate.reduce(mean))))[:, :, None, None, None]
    torch.testing.assert_close(block(x), residual * gate + block.shortcut(x))


def test_dilated_block_reaches_two_voxels_further_in_plane_only():
    # (1,2,2) on the second convolution: 1 + 2 in-plane, 1 + 1 along z
    block = SEResBlock(2, 2, dilation=(1, 2, 2), norm="batch").eval()
    nn.init.zeros_(block.gate.reduce.weight)  # the gate sees everything; silence it
    nn.init.ones_(block.first[2].weight)
    nn.init.ones_(block.second[2].weight)
    nn.init.ones_(block.first[0].bias)
    nn.init.ones_(block.second[0].bias)
    reached = influence(block, (1, 2, 9, 13, 13), (4, 6, 6)).nonzero()
    assert reached.amin(0).tolist() == [2, 3, 3]
    assert reached.amax(0).tolist() == [6, 9, 9]


def test_dense_aspp_is_dilated_in_plane_and_never_along_z():
    # a chain of all branches sees d1 + d2 + ... in-plane but one slice per branch along z
    context = DenseASPP(2, 2, (2, 3), norm="batch").eval()
    for parameter in context.parameters():
        nn.init.ones_(parameter)
    reached = influence(context, (1, 2, 7, 15, 15), (3, 7, 7))
    in_plane = sorted({7 + a + b for a in (-2, 0, 2) for b in (-3, 0, 3)})
    assert reached.any((1, 2)).nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    assert reached.any((0, 2)).nonzero().flatten().tolist() == in_plane
    assert reached.any((0, 1)).nonzero().flatten().tolist() == in_plane


def test_dense_aspp_keeps_its_input_and_grows():
    context = DenseASPP(4, 3, (3, 6, 12, 18))
    x = torch.randn(1, 4, 2, 5, 6)
    y = context(x)
    assert y.shape == (1, context.out_channels, 2, 5, 6) == (1, 16, 2, 5, 6)
    assert torch.equal(y[:, :4], x)


def test_up_block_shape():
    assert UpBlock(6, 4, 5, (2, 2, 2))(torch.randn(1, 6, 2, 3, 4), torch.randn(1, 4, 4, 6, 8)).shape == (1, 5, 4, 6, 8)


def test_upsampling_a_ramp_is_exact_between_voxel_edges():
    # voxel centre i of the coarse grid lies at 2i + 0.5 of the fine one
    ramp = (2 * torch.arange(5.0) + 0.5).view(1, 1, 1, 1, 5)
    fine = upsample(ramp, (1, 1, 2)).flatten()
    torch.testing.assert_close(fine[1:-1], torch.arange(1.0, 9.0))


def test_pooling_takes_the_maximum_of_each_cell():
    x = torch.arange(16.0).view(1, 1, 1, 4, 4)
    assert max_pool(x, (1, 2, 2)).flatten().tolist() == [5, 7, 13, 15]


@pytest.mark.parametrize(
    "stage",
    [
        lambda x: SEResBlock(4, 4)(x),
        lambda x: SEResBlock(4, 6, norm="batch")(x),
        lambda x: DenseASPP(4, 4)(x),
        lambda x: max_pool(x, (2, 2, 2)),
        lambda x: upsample(x, (2, 2, 2)),
    ],
    ids=["block", "block-batch", "aspp", "pool", "upsample"],
)
def test_bfloat16_and_channels_last_are_kept(stage):
    x = torch.randn(1, 4, 4, 8, 8).bfloat16().to(memory_format=CHANNELS_LAST).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = stage(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=CHANNELS_LAST)


def test_he_initialisation():
    torch.manual_seed(0)
    block = SEResBlock(16, 32)
    initialise(block)
    assert block.first[2].weight.std().item() == pytest.approx((2 / (16 * 27)) ** 0.5, rel=0.05)
    assert block.shortcut.weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.1)
    assert block.gate.reduce.bias.unique().tolist() == [1]
    assert block.gate.expand.bias.unique().tolist() == [0]


def test_head_starts_at_its_prior():
    torch.manual_seed(0)
    layer = nn.Conv3d(8, 2, 1)
    initialise_head(layer, -4.0)
    assert torch.sigmoid(layer(torch.randn(1, 8, 2, 2, 2))).max() < 0.03

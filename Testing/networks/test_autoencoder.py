import pytest
import torch
from focusnet.networks.autoencoder import ShapeAutoencoder

SMALL = {"roi_shape_zyx": (8, 16, 16), "widths": (4, 6, 8), "code_size": 10}


def test_parameter_count():
    network = ShapeAutoencoder()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(31.15e6, rel=0.001)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_shapes_and_gradients(norm):
    torch.manual_seed(0)
    network = ShapeAutoencoder(**SMALL, norm=norm)
    out = network((torch.rand(2, 1, 8, 16, 16) > 0.7).float())
    assert out.reconstruction.shape == (2, 1, 8, 16, 16)
    assert out.code.shape == (2, 10)
    assert [tuple(f.shape) for f in out.features] == [(2, 6, 2, 4, 4), (2, 4, 4, 8, 8)]
    assert out.reconstruction.min() > 0
    assert out.reconstruction.max() < 1
    (out.reconstruction.square().sum() + out.code.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_on_a_processor_it_computes_in_float32_under_autocast():
    """In bfloat16 its weight gradients were NaN on some processors, from the first step on."""
    torch.manual_seed(1)
    network = ShapeAutoencoder((8, 32, 32), (16, 32, 64), 64)
    mask = torch.zeros(3, 1, 8, 32, 32)
    mask[:, :, 3:5, 8:16, 10:14] = 1
    expected = network(mask)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(mask)
    assert torch.equal(out.code, expected.code)
    assert torch.equal(out.reconstruction, expected.reconstruction)
    out.reconstruction.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_latent_code_of_the_paper_roi():
    network = ShapeAutoencoder()
    assert network.coarse_shape == (256, 1, 8, 8)
    assert network.to_code.in_features == 16384
    assert network.to_code.out_features == 512


def test_forward_is_encode_then_decode():
    torch.manual_seed(0)
    network = ShapeAutoencoder(**SMALL).eval()
    mask = (torch.rand(1, 1, 8, 16, 16) > 0.7).float()
    with torch.no_grad():
        out = network(mask)
        code = network.encode(mask)
        decoded = network.decode(code)
    assert torch.equal(out.code, code)
    assert torch.equal(out.reconstruction, decoded.reconstruction)
    assert all(torch.equal(a, b) for a, b in zip(out.features, decoded.features, strict=True))


def test_gradient_reaches_the_probabilities_through_a_frozen_autoencoder():
    network = ShapeAutoencoder(**SMALL).eval().requires_grad_(False)
    probabilities = torch.rand(1, 1, 8, 16, 16, requires_grad=True)
    network.encode(probabilities).square().sum().backward()
    assert probabilities.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())


def test_learns_a_shape():
    torch.manual_seed(0)
    network = ShapeAutoencoder(**SMALL)
    z, y, x = torch.meshgrid(torch.arange(8.0), torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ball = (((z - 4) * 2) ** 2 + (y - 8) ** 2 + (x - 6) ** 2 < 25).float()[None, None]
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        loss = (network(ball).reconstruction - ball).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = network(ball).reconstruction > 0.5
    overlap = 2 * (found & (ball > 0)).sum() / (found.sum() + ball.sum())
    assert overlap > 0.9


def test_weights_load_strictly():
    one, other = ShapeAutoencoder(**SMALL).eval(), ShapeAutoencoder(**SMALL).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    mask = torch.ones(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(one(mask).code, other(mask).code)


@pytest.mark.parametrize("roi", [(4, 16, 16), (8, 20, 16), (8, 16, 0)])
def test_roi_that_cannot_be_halved_three_times_is_refused(roi):
    with pytest.raises(ValueError, match="multiples of 8"):
        ShapeAutoencoder(roi_shape_zyx=roi)


@pytest.mark.parametrize("shape", [(1, 1, 8, 16, 24), (1, 2, 8, 16, 16), (1, 8, 16, 16)])
def test_wrong_mask_shape_is_refused(shape):
    with pytest.raises(ValueError, match="autoencoder takes"):
        ShapeAutoencoder(**SMALL).encode(torch.zeros(shape))

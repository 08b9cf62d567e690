"""The shape constraint: eqs 4 to 8 by hand, which loss reaches which weights, and the game itself."""

import hashlib
from copy import deepcopy

import pytest
import torch
from focusnet.networks.autoencoder import AutoencoderOutput, ShapeAutoencoder
from focusnet_training.adversarial import (
    discriminator_losses,
    generator_losses,
    pretraining_losses,
    reconstruction_loss,
    shape_distance,
)
from focusnet_training.config import ShapeConfig
from focusnet_training.learners import Learner
from torch import nn

CONFIG = ShapeConfig(constraint="adversarial")


class ByHand(nn.Module):
    """Code = w * sum of the mask, features = w * mask and 2w * mask, reconstruction = w * mask."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, mask):
        code = self.w * mask.sum((1, 2, 3, 4))[:, None]
        return AutoencoderOutput(self.w * mask, code, (self.w * mask, 2 * self.w * mask))


def roi(*values):
    return torch.tensor(values)[None, None, None, None]


TRUTH = roi(1.0, 1.0, 0.0, 0.0)
ANSWER = roi(1.0, 0.0, 0.5, 0.0)
# With w = 0.5 the codes are 1 and 0.75; the masks differ by (0, 1, 0.5, 0), the features by w and 2w of that.
CODE = 0.25**2
FEATURES = 2 * (1 + 0.25) / 2


def sha(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def number(tensor):
    return tensor.detach().item()


def test_reconstruction_by_hand():
    """Eq 4 in units of the organ: squared error over its number of voxels, mean over organs."""
    assert number(reconstruction_loss(0.5 * TRUTH, TRUTH, TRUTH)) == pytest.approx(0.25)
    assert number(reconstruction_loss(torch.zeros_like(TRUTH), TRUTH, TRUTH)) == pytest.approx(1)
    both = torch.cat([TRUTH, roi(1.0, 0.0, 0.0, 0.0)])
    blank_second = torch.cat([TRUTH, torch.zeros_like(TRUTH)])
    assert number(reconstruction_loss(blank_second, both, both)) == pytest.approx(0.5)
    assert number(pretraining_losses(ByHand(0.5), TRUTH)["aae_reconstruction"]) == pytest.approx(0.25)


def test_distance_by_hand():
    """Eq 5: code, and both decoder features."""
    model = ByHand(0.5)
    distance = shape_distance(model(TRUTH), model(ANSWER))
    assert number(distance.code) == pytest.approx(CODE)
    assert number(distance.features) == pytest.approx(FEATURES)
    assert [number(d) for d in shape_distance(model(TRUTH), model(TRUTH))] == [0, 0]


def test_distance_does_not_know_the_scale_of_the_code():
    near, far = ByHand(0.5), ByHand(5.0)
    for one, other in zip(*(shape_distance(m(TRUTH), m(ANSWER)) for m in (near, far)), strict=True):
        assert number(one) == pytest.approx(number(other))


def test_generator_by_hand():
    """Eq 7: lambda 1 = 5 times code + 0.2 of each feature."""
    losses = generator_losses(ByHand(0.5), TRUTH, ANSWER, CONFIG)
    assert number(losses["shape_code"]) == pytest.approx(5 * CODE)
    assert number(losses["shape_features"]) == pytest.approx(5 * 0.2 * FEATURES)


def test_discriminator_by_hand():
    """Eq 8: both reconstructions of eq 4 minus lambda 2 = 0.001 times the distance."""
    losses = discriminator_losses(ByHand(0.5), TRUTH, ANSWER, CONFIG)
    error_of_answer = (0.5**2 + 0.25**2) / 2
    assert number(losses["aae_reconstruction"]) == pytest.approx(0.25 + error_of_answer)
    assert number(losses["aae_apart"]) == pytest.approx(-0.001 * (CODE + 0.2 * FEATURES))


def balls(radius_zyx=(2.5, 4.5, 4.5), shift=0.0):
    z, y, x = torch.meshgrid(torch.arange(8.0), torch.arange(16.0), torch.arange(16.0), indexing="ij")
    rz, ry, rx = radius_zyx
    ball = ((z - 3.5) / rz) ** 2 + ((y - 7.5 - shift) / ry) ** 2 + ((x - 7.5) / rx) ** 2 < 1
    return ball[None, None].float()


@pytest.fixture
def game():
    """A pre-trained autoencoder, true masks of two organs, and a network that answers them badly."""
    torch.manual_seed(0)
    autoencoder = ShapeAutoencoder((8, 16, 16), (4, 8, 16), 16)
    truth = torch.cat([balls(), balls((1.6, 2.5, 5.5), 2.0)])
    learner = Learner(autoencoder.parameters(), 1e-2, 0.0)
    for _ in range(40):
        learner.start(1.0)
        sum(pretraining_losses(autoencoder, truth).values()).backward()
        learner.optimizer.step()
    autoencoder.zero_grad()
    network = nn.Conv3d(1, 1, 3, padding=1)
    ct = truth + 0.5 * torch.randn(truth.shape)
    return autoencoder, network, ct, truth


def distance(autoencoder, network, ct, truth):
    with torch.no_grad():
        return float(shape_distance(autoencoder(truth), autoencoder(torch.sigmoid(network(ct)))).code)


def test_pretraining_reconstructs(game):
    autoencoder, _, _, truth = game
    answer = autoencoder(truth).reconstruction > 0.5
    overlap = 2 * (answer & (truth > 0)).sum((1, 2, 3, 4)) / (answer.sum((1, 2, 3, 4)) + truth.sum((1, 2, 3, 4)))
    assert overlap.min() > 0.8


def test_generator_steps_bring_the_codes_together_and_leave_the_autoencoder(game):
    autoencoder, network, ct, truth = game
    before, weights = distance(*game), sha(autoencoder)
    learner = Learner(network.parameters(), 1e-2, 0.0)
    for _ in range(20):
        learner.start(1.0)
        sum(generator_losses(autoencoder, truth, torch.sigmoid(network(ct)), CONFIG).values()).backward()
        learner.optimizer.step()
    assert distance(*game) < 0.7 * before
    assert sha(autoencoder) == weights
    assert all(p.grad is None for p in autoencoder.parameters())


def test_discriminator_steps_drive_the_codes_apart_and_leave_the_network(game):
    autoencoder, network, ct, truth = game
    before, weights = distance(*game), sha(network)
    learner = Learner(autoencoder.parameters(), 2e-3, 0.0)
    for _ in range(20):
        learner.start(1.0)
        sum(discriminator_losses(autoencoder, truth, torch.sigmoid(network(ct)), CONFIG).values()).backward()
        learner.optimizer.step()
    assert distance(*game) > 1.2 * before
    assert sha(network) == weights
    assert all(p.grad is None for p in network.parameters())


def test_without_lambda_2_the_autoencoder_keeps_them_less_apart(game):
    """The growth comes from the game's own term, not from reconstruction alone."""
    autoencoder, network, ct, truth = game
    reached = {}
    for weight in (0.0, 1.0):
        player = deepcopy(autoencoder)
        learner = Learner(player.parameters(), 2e-3, 0.0)
        config = ShapeConfig(constraint="adversarial", adversarial_weight=weight)
        for _ in range(10):
            learner.start(1.0)
            sum(discriminator_losses(player, truth, torch.sigmoid(network(ct)), config).values()).backward()
            learner.optimizer.step()
        reached[weight] = distance(player, network, ct, truth)
    assert reached[1.0] > 1.1 * reached[0.0]


def test_one_backward_pass_gives_each_player_its_own_gradient(game):
    autoencoder, network, ct, truth = game

    def gradients(*losses):
        network.zero_grad(), autoencoder.zero_grad()
        answer = torch.sigmoid(network(ct))
        sum(value for loss in losses for value in loss(autoencoder, truth, answer, CONFIG).values()).backward()
        return [None if p.grad is None else p.grad.clone() for m in (network, autoencoder) for p in m.parameters()]

    together = gradients(generator_losses, discriminator_losses)
    alone = gradients(generator_losses), gradients(discriminator_losses)
    for both, generator, discriminator in zip(together, *alone, strict=True):
        assert (generator is None) != (discriminator is None)
        torch.testing.assert_close(both, discriminator if generator is None else generator)

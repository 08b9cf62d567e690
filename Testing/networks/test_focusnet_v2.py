import pytest
import torch
from focusnet.networks.builders import BUILDERS, build
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.roi import crop_roi, find_peaks, roi_start

ROI = (4, 8, 8)
SMALL = {"num_classes": 4, "num_small": 2, "widths": (8, 12, 16), "growth": 8, "roi_shape_zyx": ROI}
CHANNELS_LAST = torch.channels_last_3d


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


def segment(network, ct):
    """Logits of S-Net, heat maps and logits of every SOS-Net at its own peak."""
    out = network(ct)
    peaks = find_peaks(out.heatmaps)
    refined = []
    for organ in range(len(network.sos)):
        start = roi_start(peaks.position_zyx[0, organ], ROI, ct.shape[2:])
        refined.append(network.refine(organ, crop_roi(out.features, start, ROI), crop_roi(ct, start, ROI)))
    return out, torch.stack(refined)


def test_parameter_count_is_the_sum_of_table_10():
    # 2.370 M + 56.7 k + 6 x 115 k; see the parts' own tests for the difference
    network = FocusNetV2(23, 6)
    assert parameter_count(network) == pytest.approx(2.370e6 + 56.7e3 + 6 * 115e3, rel=0.002)


@pytest.mark.parametrize("concatenate_ct", [True, False])
@pytest.mark.parametrize("sos", ["plain", "unet"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_shapes_and_gradients_of_every_option(norm, sos, concatenate_ct):
    torch.manual_seed(0)
    network = FocusNetV2(**SMALL, norm=norm, sos=sos, concatenate_ct=concatenate_ct)
    out, refined = segment(network, torch.randn(1, 1, 6, 16, 20))
    assert out.logits.shape == (1, 4, 6, 16, 20)
    assert out.features.shape == (1, 8, 6, 16, 20)
    assert out.heatmap_logits.shape == out.heatmaps.shape == (1, 2, 6, 16, 20)
    assert refined.shape == (2, 1, 1, *ROI)
    (out.logits.square().sum() + out.heatmaps.sum() + refined.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_without_small_organs_there_is_only_s_net():
    network = FocusNetV2(4, 0, (4, 6, 8), 4)
    out = network(torch.randn(1, 1, 2, 8, 8))
    assert network.sol is None
    assert len(network.sos) == 0
    assert out.heatmaps is None
    assert out.heatmap_logits is None
    assert not any(name.startswith(("sol", "sos")) for name in network.state_dict())
    network.set_trainable({"snet"}).train()


def test_ct_reaches_sos_net_only_where_concatenated():
    features, ct = torch.randn(1, 8, *ROI), torch.randn(1, 1, *ROI)
    with torch.no_grad():
        with_ct, without = FocusNetV2(**SMALL), FocusNetV2(**SMALL, concatenate_ct=False)
        assert not torch.equal(with_ct.refine(0, features, ct), with_ct.refine(0, features, -ct))
        assert torch.equal(without.refine(0, features, ct), without.refine(0, features, -ct))


def test_each_small_organ_has_its_own_net():
    network = FocusNetV2(**SMALL)
    features, ct = torch.randn(1, 8, *ROI), torch.randn(1, 1, *ROI)
    with torch.no_grad():
        assert not torch.equal(network.refine(0, features, ct), network.refine(1, features, ct))
        expected = network.sos[1](torch.cat([features, ct], 1))
        assert torch.equal(network.refine(1, features, ct), expected)


@pytest.mark.parametrize("concatenate_ct", [True, False])
def test_refining_a_crop_keeps_channels_last(concatenate_ct):
    network = FocusNetV2(**SMALL, concatenate_ct=concatenate_ct).to(memory_format=CHANNELS_LAST)
    seen = []
    network.sos[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = torch.randn(1, 8, 6, 16, 20).to(memory_format=CHANNELS_LAST)
    ct = torch.randn(1, 1, 6, 16, 20)
    network.refine(0, crop_roi(features, (1, 2, 3), ROI), crop_roi(ct, (1, 2, 3), ROI))
    assert seen[0].is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_small": 4}, "num_small"),
        ({"num_small": -1}, "num_small"),
        ({"roi_shape_zyx": (0, 8, 8)}, "ROI"),
        ({"roi_shape_zyx": (3, 8, 8), "sos": "unet"}, "ROI"),
        ({"sos": "deep"}, "sos"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocusNetV2(**{**SMALL, **arguments})


@pytest.mark.parametrize("parts", [{"snet"}, {"sol"}, {"sos"}, {"snet", "sol", "sos"}, set()])
def test_frozen_parts_stay_bit_identical_over_training_steps(parts):
    torch.manual_seed(0)
    network = FocusNetV2(**SMALL, norm="batch").set_trainable(parts)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # everything is handed to the optimiser, with weight decay, which would move any parameter that has a gradient
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        network.train()
        out, refined = segment(network, torch.randn(1, 1, 4, 16, 16))
        loss = out.logits.square().sum() + out.heatmaps.sum() + refined.square().sum()
        optimiser.zero_grad()
        if parts:
            loss.backward()
        optimiser.step()
    for name, value in network.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (name.split(".")[0] in parts), name


def test_frozen_parts_can_be_trained_again():
    network = FocusNetV2(**SMALL, norm="batch").set_trainable({"sol"})
    assert not network.snet.training
    assert network.sol.training
    network.eval().set_trainable({"snet", "sol", "sos"})
    assert not network.snet.training
    network.train()
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="aae"):
        FocusNetV2(**SMALL).set_trainable({"snet", "aae"})


def test_weights_load_strictly_and_freezing_is_not_saved():
    one = FocusNetV2(**SMALL).set_trainable({"sol"}).eval()
    other = FocusNetV2(**SMALL).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    ct = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(one(ct), other(ct), strict=True))
    with pytest.raises(RuntimeError, match=r"sos\.1"):
        FocusNetV2(**{**SMALL, "num_small": 1}).load_state_dict(one.state_dict(), strict=True)


def test_compiles_as_one_graph():
    torch.manual_seed(0)
    network = FocusNetV2(4, 2, (4, 6, 8), 4)
    ct = torch.randn(1, 1, 2, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(ct)
        torch.testing.assert_close(compiled.heatmaps, network(ct).heatmaps)


def test_build_by_name():
    network = build("focusnetv2", **SMALL)
    assert isinstance(network, FocusNetV2)
    assert set(BUILDERS) == {"focusnetv2", "shape_autoencoder", "snet"}


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet.*focusnetv2"):
        build("resnet")

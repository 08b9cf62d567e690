"""Configuration: presets valid, overrides by name, one clear line for what does not fit."""

import pytest
from focusnet.errors import FocusNetError
from focusnet_training.config import TrainingConfig, load_config, load_preset, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name):
    config = load_preset(name)
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


def test_overrides_reach_tables_and_stages():
    name = preset_names()[0]
    config = load_preset(name, ["seed=7", "stages.snet.steps=12", "network.growth=16", "loss.missing=masked"])
    assert (config.seed, config.stages[0].steps, config.network.growth) == (7, 12, 16)
    assert config.loss.missing == "masked"


SNET = "name = 'a'\n[[stages]]\nname='snet'\nsteps=1"
SHAPES = "shape.constraint=frozen"


@pytest.mark.parametrize(
    ("text", "overrides", "part"),
    [
        ("name = 'a'\nstages = []", [], "stages"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=0", [], "steps"),
        ("name = 'a'\nunknown = 1\n[[stages]]\nname='snet'\nsteps=1", [], "unknown"),
        ("name = 'a'\n[[stages]]\nname='sol'\nsteps=1\n[[stages]]\nname='snet'\nsteps=1", [], "order"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["data.chunk_zyx=[3,4,4]"], "divisible"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["seed"], "key=value"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["stages.sol.steps=1"], "stages.sol.steps"),
        ("name = ", [], "TOML"),
        ("name = 'a'\n[[stages]]\nname='sos'\nsteps=1", ["shape.constraint=adversarial"], "stage aae"),
        (
            "name = 'a'\n[[stages]]\nname='snet'\nsteps=1",
            [SHAPES, "network.roi_shape_zyx=[12,48,48]"],
            "multiples",
        ),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", [SHAPES, "network.roi_shape_zyx=[8,8,8]"], "at least"),
        ("name = 'a'\n[[stages]]\nname='sol'\nsteps=1", ["data.chunk_zyx=[8,32,32]"], "must fit"),
        ("name = '_a'\n[[stages]]\nname='snet'\nsteps=1", [], "name"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["data.window_hu=[800,-200]"], "must rise"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["stages.snet=5"], "stages.snet.steps"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["seed=-1"], "seed"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["network.widths=[0,4,4]"], "widths"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["data.chunk_zyx=[0,24,24]"], "chunk_zyx"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["data.spacing_xyz=[1,1,0]"], "spacing_xyz"),
        ("name = 'a'\n[[stages]]\nname='snet'\nsteps=1", ["validation_cases=0"], "validation_cases"),
        (SNET, ["augmentation.scale=[0.0,1.3]"], "augmentation.scale.*positive and rise"),
        (SNET, ["augmentation.scale=[1.3,0.7]"], "augmentation.scale.*positive and rise"),
        (SNET, ["augmentation.scale=[1.0,inf]"], "augmentation.scale.*positive and rise"),
        (SNET, ["augmentation.contrast=[1.1,0.9]"], "contrast.*positive and rise"),
        (SNET, ["loss.weight_range=[0.0,4.0]"], "weight_range.*positive and rise"),
        (SNET, ["loss.heatmap_sigma_mm=0"], "heatmap_sigma_mm"),
        (SNET, ["loss.gamma=0.5"], "gamma must be 0 or at least 1"),
        (SNET, ["loss.gamma=-1"], "gamma must be 0 or at least 1"),
        (SNET, ["loss.gamma=nan"], "gamma"),
        (
            "name = 'a'\n[[stages]]\nname='sos'\nsteps=1",
            ["network.sos=unet", "network.roi_shape_zyx=[8,30,32]"],
            "multiples of",
        ),
        (
            "name = 'a'\n[[stages]]\nname='snet'\nsteps=1",
            ["data.organs=['lens_l','lens_r','lens_l']"],
            "organs names an organ twice",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, overrides, part):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(FocusNetError, match=part) as caught:
        load_config(path, overrides)
    assert caught.value.code == "E_CONFIG"


def test_factors_that_do_not_vary_and_no_focusing_are_fine(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(SNET)
    config = load_config(path, ["augmentation.scale=[1.0,1.0]", "loss.gamma=0"])
    assert (config.augmentation.scale, config.loss.gamma) == ((1.0, 1.0), 0.0)


def test_variants_without_a_shape_constraint_have_no_autoencoder_to_train():
    names = [s.name for s in load_preset("phantom-tiny").schedule]
    assert names == ["snet", "sol", "aae", "sos", "joint"]
    names = [s.name for s in load_preset("phantom-tiny", ["shape.constraint=none"]).schedule]
    assert names == ["snet", "sol", "sos", "joint"]


def test_unknown_preset_names_those_there_are():
    with pytest.raises(FocusNetError, match=preset_names()[0]) as caught:
        load_preset("nonsense")
    assert caught.value.code == "E_UNKNOWN_PRESET"


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes("# für Köpfe\nname = 'a'".encode("latin-1"))
    with pytest.raises(FocusNetError, match="UTF-8") as caught:
        load_config(path)
    assert caught.value.code == "E_CONFIG"

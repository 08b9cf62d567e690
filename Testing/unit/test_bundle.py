import hashlib
import json
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from focusnet.bundle import (
    Architecture,
    Bundle,
    ModelSpec,
    holds_bundle,
    load_bundle,
    read_spec,
    save_bundle,
)
from focusnet.errors import FocusNetError
from focusnet.io.atomic import new_folder
from focusnet.networks import builders
from pydantic import ValidationError


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle's folder that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "copy"))


def refused(folder: Path, code: str, words: str = "") -> None:
    with pytest.raises(FocusNetError) as caught:
        load_bundle(folder)
    assert caught.value.code == code
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def put_weights(folder: Path, data: bytes) -> None:
    """Replace the weights and describe them truthfully."""
    (folder / "weights.safetensors").write_bytes(data)
    spec = json.loads((folder / "bundle.json").read_text())
    spec["weights"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "bundle.json").write_text(json.dumps(spec))


def change_header(folder: Path, change) -> None:
    """Apply a change to the safetensors header and keep hash and size right."""
    data = (folder / "weights.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    put_weights(folder, struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_spec(folder: Path, **values) -> None:
    spec = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(spec | values))


def test_round_trip_gives_the_weights_in_float32_and_evaluation_mode(tiny_spec, tmp_path):
    torch.manual_seed(3)
    network = builders.build("focusnetv2", **tiny_spec.architecture.arguments)
    save_bundle(tmp_path / "m", tiny_spec, network, "card")
    loaded = load_bundle(tmp_path / "m")
    assert not loaded.network.training
    described = json.loads(loaded.spec.model_dump_json())
    assert described | json.loads(tiny_spec.model_dump_json()) == described
    for name, tensor in network.state_dict().items():
        stored = loaded.network.state_dict()[name]
        assert stored.dtype == torch.float32
        assert torch.equal(stored, tensor.half().float())
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


@pytest.mark.parametrize(("precision", "item"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_stored_precision_decides_the_size(tiny_spec, tmp_path, precision, item):
    network = builders.build("focusnetv2", **tiny_spec.architecture.arguments)
    bundle = save_bundle(tmp_path / "m", tiny_spec, network, "card", precision=precision)
    content = item * sum(t.numel() for t in network.state_dict().values())
    assert content < bundle.spec.weights.bytes < content + 40_000
    assert bundle.spec.weights.precision == precision


def test_the_same_weights_give_the_same_file(tiny_bundle, tmp_path):
    again = save_bundle(tmp_path / "m", tiny_bundle.spec, tiny_bundle.network, "card")
    assert again.spec.weights == tiny_bundle.spec.weights


def test_loading_leaves_the_random_numbers_alone(tiny_bundle):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_bundle(tiny_bundle.folder)
    assert torch.equal(torch.rand(3), expected)


def test_the_description_is_read_without_torch(tiny_bundle):
    script = (
        "import sys; from focusnet.bundle import read_spec; "
        f"assert read_spec({str(tiny_bundle.folder)!r}).name == 'tiny'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_weights_of_another_size_or_hash_are_refused(copy):
    weights = copy / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(copy, "E_BUNDLE_HASH")
    weights.write_bytes(data[:-1])
    refused(copy, "E_BUNDLE_HASH")


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "MODEL_CARD.md"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    refused(copy, "E_BUNDLE_FORMAT", name)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "MODEL_CARD.md"])
def test_a_link_out_of_the_folder_is_refused(copy, tmp_path, name):
    outside = tmp_path / name
    (copy / name).rename(outside)
    (copy / name).symlink_to(outside)
    refused(copy, "E_BUNDLE_FORMAT", "link")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(copy, tmp_path, protocol):
    put_weights(copy, pickle.dumps(Bomb(tmp_path / "exploded"), protocol))
    refused(copy, "E_BUNDLE_FORMAT")
    assert not (tmp_path / "exploded").exists()


def test_a_torch_checkpoint_is_refused_as_weights_and_as_a_bundle(copy, tmp_path):
    checkpoint = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(3)}, checkpoint)
    put_weights(copy, checkpoint.read_bytes())
    refused(copy, "E_BUNDLE_FORMAT", "pickle")
    refused(checkpoint, "E_BUNDLE_FORMAT", "Pickled")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 9) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xfe",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 12) + b'{"a": "text"',
    ],
)
def test_a_truncated_or_absurd_header_is_refused(copy, data):
    if not data:
        (copy / "weights.safetensors").write_bytes(data)
        refused(copy, "E_BUNDLE_HASH")
        return
    put_weights(copy, data)
    refused(copy, "E_BUNDLE_FORMAT")


def rename(header):
    header["snet.unknown"] = header.pop("snet.head.bias")


def drop(header):
    header.pop("snet.head.bias")


def reshape(header):
    name = "snet.head.weight"
    header[name]["shape"] = header[name]["shape"][::-1]


def overlap(header):
    header["snet.head.bias"]["data_offsets"] = [0, 12]


def retype(header):
    header["snet.head.bias"]["dtype"] = "U16"


def as_integers(header):
    header["snet.head.bias"] |= {"dtype": "I64"}


def negative(header):
    header["snet.head.bias"]["shape"] = [-2, -3]


@pytest.mark.parametrize("first", [b"\x80", b"PK"], ids=["as a pickle", "as a zip"])
def test_a_header_whose_length_looks_like_another_format_is_read(copy, first):
    data = (copy / "weights.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    longer = next(n for n in range(length, length + 2**16) if struct.pack("<Q", n).startswith(first))
    header = data[8 : 8 + length].ljust(longer)
    put_weights(copy, struct.pack("<Q", longer) + header + data[8 + length :])
    assert load_bundle(copy).spec.name


@pytest.mark.parametrize("change", [rename, drop, reshape, overlap, retype, as_integers, negative])
def test_a_header_that_is_not_the_architecture_is_refused(copy, change):
    change_header(copy, change)
    refused(copy, "E_BUNDLE_FORMAT")


def test_values_that_are_not_finite_are_refused(copy, tiny_bundle, tmp_path):
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[-2:] = b"\x00\x7c"  # infinity in half precision
    put_weights(copy, bytes(data))
    refused(copy, "E_BUNDLE_FORMAT", "finite")
    network = builders.build("focusnetv2", **tiny_bundle.spec.architecture.arguments)
    with torch.no_grad():
        network.snet.head.weight.fill_(1e6)  # too large for half precision
    with pytest.raises(FocusNetError, match="finite"):
        save_bundle(tmp_path / "m", tiny_bundle.spec, network, "card")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"surprise": 1},
        {"schema_version": 2},
        {"name": "../evil"},
        {"organs": ["brainstem", "nose"]},
        {"organs": ["brainstem"]},
        {"small_organs": ["mandible", "lens_l"]},
        {"spacing_mm_xyz": [0, 1, 3]},
        {"window_hu": [100, 100]},
        {"chunk_shape_zyx": [16, 48, 47]},
        {"overlap_zyx": [9, 8, 8]},
        {"roi_shape_zyx": [4, 16, 64]},
        {"roi_shape_zyx": [4, 16, 12]},
        {"architecture": {"name": "unknown", "arguments": {"num_classes": 6, "num_small": 2}}},
        {"architecture": {"name": "focusnetv2", "arguments": {"num_classes": 6, "num_small": 2, "evil": 1}}},
        {"weights": {"sha256": "0" * 64, "bytes": 10, "precision": "int8"}},
    ],
)
def test_a_description_that_does_not_fit_is_refused(copy, values):
    change_spec(copy, **values)
    refused(copy, "E_BUNDLE_SCHEMA")


def test_a_hostile_architecture_allocates_nothing(copy):
    arguments = {"num_classes": 6, "num_small": 2, "widths": [100_000, 100_000, 100_000], "roi_shape_zyx": [4, 16, 16]}
    change_spec(copy, architecture={"name": "focusnetv2", "arguments": arguments})
    refused(copy, "E_BUNDLE_FORMAT")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "{'a': 1}"])
def test_broken_json_is_refused(copy, text):
    (copy / "bundle.json").write_text(text)
    refused(copy, "E_BUNDLE_SCHEMA")


def test_an_enormous_description_is_not_read(copy):
    with (copy / "bundle.json").open("ab") as file:
        file.truncate(2**21)
    refused(copy, "E_BUNDLE_FORMAT", "bytes")


def test_organs_and_network_must_agree_when_a_bundle_is_made(tiny_spec):
    values = tiny_spec.model_dump()
    values["architecture"]["arguments"]["num_classes"] = 7
    with pytest.raises(ValidationError, match="num_classes is 7, the organs ask for 6"):
        ModelSpec(**values)


def test_a_model_without_small_organs_needs_no_roi(tmp_path, tiny_spec):
    arguments = {"num_classes": 2, "widths": (4, 4, 4), "growth": 4}
    spec = ModelSpec(
        name="large",
        description="d",
        architecture=Architecture(name="snet", arguments=arguments),
        organs=("mandible",),
        spacing_mm_xyz=(3, 3, 3),
        chunk_shape_zyx=(8, 16, 16),
        overlap_zyx=(2, 4, 4),
        training_data="none",
    )
    save_bundle(tmp_path / "large", spec, builders.build("snet", **arguments), "card")
    assert read_spec(tmp_path / "large").small_organs == ()


def test_an_existing_bundle_is_kept_unless_overwriting_is_allowed(copy, tiny_bundle):
    before = (copy / "MODEL_CARD.md").read_text()
    with pytest.raises(FocusNetError) as caught:
        save_bundle(copy, tiny_bundle.spec, tiny_bundle.network, "new")
    assert caught.value.code == "E_OUTPUT_EXISTS"
    assert (copy / "MODEL_CARD.md").read_text() == before
    save_bundle(copy, tiny_bundle.spec, tiny_bundle.network, "new", overwrite=True)
    assert (copy / "MODEL_CARD.md").read_text() == "new\n"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_failed_save_leaves_the_old_bundle_and_no_scraps(copy, tiny_bundle):
    wrong = builders.build("snet", num_classes=6)
    with pytest.raises(FocusNetError):
        save_bundle(copy, tiny_bundle.spec, wrong, "new", overwrite=True)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    load_bundle(copy)


def test_loading_needs_no_compiler_of_torch(tiny_bundle):
    """Initialising tensors without storage would import torch's compiler, which takes longer than all the rest."""
    script = (
        f"import sys; from focusnet.bundle import load_bundle; load_bundle({str(tiny_bundle.folder)!r}); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path):
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "thesis.txt").write_text("kept")
    with pytest.raises(FocusNetError, match="holds something else") as caught, new_folder(folder, True, holds_bundle):
        pytest.fail("entered")
    assert caught.value.code == "E_OUTPUT_EXISTS"
    assert (folder / "thesis.txt").read_text() == "kept"
    (folder / "thesis.txt").rename(folder / "bundle.json")
    with new_folder(folder, True, holds_bundle) as new:
        (new / "x").touch()
    assert [path.name for path in folder.iterdir()] == ["x"]

"""Stored weights into the network they belong to; each tensor's name, type and shape is checked, none is unpickled."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from focusnet.bundle import WEIGHTS_NAME
from focusnet.devices import DTYPES
from focusnet.errors import FocusNetError
from focusnet.networks import builders

MAX_HEADER_BYTES = 2**23
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
ITEM_BYTES = {**FLOATS, "I64": 8}
FILLING = frozenset({"normal_", "uniform_", "fill_", "zero_"})

Header = dict[str, tuple[str, tuple[int, ...]]]


def pack(network: nn.Module, precision: str) -> bytes:
    """Parameters and buffers of a network as safetensors; floats in ``fp32``, ``fp16`` or ``bf16``."""
    dtype = DTYPES[precision]
    state = {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    return safetensors.torch.save(state)


def software() -> dict[str, str]:
    """Versions of what wrote the weights."""
    return {"torch": torch.__version__, "safetensors": safetensors.__version__}


def unpack(model: str, name: str, arguments: Mapping[str, Any], data: bytes) -> nn.Module:
    """The network with the stored weights, in float32 and evaluation mode.

    Args:
        model: Name for messages.
        name: Network, as `focusnet.networks.builders.build` takes it.
        arguments: Its constructor arguments.
        data: Content of the weights file.

    Raises:
        FocusNetError: ``E_BUNDLE_SCHEMA`` when the network can't be built, ``E_BUNDLE_FORMAT`` when the weights are no
            safetensors, not finite or of another network.
    """
    header = _read_header(data, model)
    try:
        with torch.device("meta"), _Unfilled():  # shapes only: a hostile description allocates nothing
            wanted = builders.build(name, **arguments).state_dict()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise FocusNetError("E_BUNDLE_SCHEMA", f"The architecture of '{model}' cannot be built: {error}") from None
    _compare(model, header, wanted)
    state = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in safetensors.torch.load(data).items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise FocusNetError("E_BUNDLE_FORMAT", f"{WEIGHTS_NAME} of '{model}' holds values that are not finite.")
    with torch.random.fork_rng(devices=[]):
        network = builders.build(name, **arguments)
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


class _Unfilled(TorchFunctionMode):
    """Leaves new tensors unfilled: without storage they have no values, and trying costs torch seconds of imports."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or getattr(func, "__name__", "") in FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _read_header(data: bytes, model: str) -> Header:
    """Type and shape of each tensor; the header must describe exactly the bytes that follow it."""

    def refusal(why: str) -> FocusNetError:
        return FocusNetError("E_BUNDLE_FORMAT", f"{WEIGHTS_NAME} of '{model}' {why}; get the bundle again.")

    # A safetensors file may begin with the same bytes, which are its header's length; but then the header follows.
    if (data[:2] == b"PK" or data[:1] == b"\x80") and data[8:9] != b"{":
        raise refusal("is a pickle or zip archive, which is never read")
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else -1
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise refusal("has a truncated or oversized header")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
        header.pop("__metadata__", None)
        tensors = {k: (v["dtype"], tuple(v["shape"]), tuple(v["data_offsets"])) for k, v in header.items()}
        position = 0
        for dtype, shape, (start, stop) in sorted(tensors.values(), key=lambda entry: entry[2]):
            if start != position or stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
                raise refusal("has a header that does not fit its content")
            position = stop
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise refusal("has no valid safetensors header") from None
    if position != len(data) - 8 - length:
        raise refusal("has a header that does not fit its content")
    return {k: (dtype, shape) for k, (dtype, shape, _) in tensors.items()}


def _compare(model: str, header: Header, wanted: Mapping[str, Tensor]) -> None:
    for key in sorted(set(header) ^ set(wanted)):
        problem = "has no place in the architecture" if key in header else "is missing"
        raise FocusNetError("E_BUNDLE_FORMAT", f"Tensor '{key}' of '{model}' {problem}; weights of another network?")
    for key, (dtype, shape) in header.items():
        fits = dtype in FLOATS if wanted[key].is_floating_point() else dtype == "I64"
        if not fits or shape != tuple(wanted[key].shape):
            raise FocusNetError(
                "E_BUNDLE_FORMAT",
                f"Tensor '{key}' of '{model}' is {dtype} {list(shape)}, "
                f"the architecture has {str(wanted[key].dtype).removeprefix('torch.')} {list(wanted[key].shape)}.",
            )

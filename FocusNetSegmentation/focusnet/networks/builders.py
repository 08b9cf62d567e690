"""Networks by name, for bundles and training configurations."""

from collections.abc import Callable
from typing import Any

from torch import nn

from focusnet.networks.autoencoder import ShapeAutoencoder
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.snet import SNet

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "focusnetv2": FocusNetV2,
    "shape_autoencoder": ShapeAutoencoder,
    "snet": SNet,
}


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network.

    Args:
        name: A key of `BUILDERS`.
        **arguments: Constructor arguments of that network.

    Raises:
        ValueError: No network has that name.
    """
    if name not in BUILDERS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(sorted(BUILDERS))}")
    return BUILDERS[name](**arguments)

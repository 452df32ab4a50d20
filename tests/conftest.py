"""What all tests share: randomness from a seeded generator, never from the global one."""

import pytest
import torch


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """``torch.distributions`` draws from the global generator: seed it, whatever ran before."""
    torch.manual_seed(7)


@pytest.fixture(autouse=True)
def _validated() -> None:
    """torch.compile switches the checks of all distributions off, for the rest of the process."""
    torch.distributions.Distribution.set_default_validate_args(True)

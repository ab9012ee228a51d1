"""The stock processors need torchvision and num2words: `make test-processors` has them."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def stock_processors() -> None:
    """Skips these tests where the stock classes cannot be used."""
    # A torchvision of another build than torch's raises what it likes.
    for name in ("torchvision", "num2words"):
        pytest.importorskip(name, reason=f"{name} cannot be imported: see make test-processors", exc_type=Exception)

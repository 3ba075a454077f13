"""Every model family keeps the contract."""

import pytest

from autotc.adapter import adapters
from tests.apply import tiny
from tests.contracts.adapter import AdapterContract


@pytest.mark.parametrize("kind", tiny.KINDS)
class TestAdapter(AdapterContract):
    pass


def test_every_family_has_a_tiny_model() -> None:
    covered = {kind for cls in adapters.all() for kind in cls.model_types}
    assert covered == set(tiny.KINDS)

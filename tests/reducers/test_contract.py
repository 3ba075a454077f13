"""Every registered reducer keeps the contract."""

import pytest

from autotc.reducer import reducers
from tests.contracts.reducer import ReducerContract


@pytest.mark.parametrize("name", reducers.names())
class TestReducer(ReducerContract):
    pass

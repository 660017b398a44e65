"""What tests of the kernel may use."""

import pytest

from meshsim.kernel import owner


@pytest.fixture
def first_turns(monkeypatch):
    """Let every round robin begin at the first member, so that a test can say who is picked."""
    monkeypatch.setattr(owner, "begin_turns", lambda kernel: None)

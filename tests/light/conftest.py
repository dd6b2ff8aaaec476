"""What several light tests share."""

import pytest

from tests.light.question_reader import make_asked, make_examples


@pytest.fixture(scope="session")
def examples():
    """Scenes of each split with their questions; read it only."""
    return make_examples()


@pytest.fixture(scope="session")
def asked():
    """(scene, question) of each task, of all splits; read it only."""
    return make_asked()

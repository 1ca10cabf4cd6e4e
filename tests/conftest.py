"""Shape annotations are checked while the tests run; the real data sets are found or their absence is said."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("secateur", "beartype.beartype")

SHARED_DATA = Path(os.environ.get("SECATEUR_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, fixations and trained networks; tests that read it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data sets are absent: {SHARED_DATA} (set SECATEUR_DATA)")
    return SHARED_DATA

"""The house: what may know what. The contracts stand in pyproject.toml; `make check` prints them one by one."""

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


@pytest.mark.feature("S3-016")
def test_no_module_reaches_around_the_interface_of_another():
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS

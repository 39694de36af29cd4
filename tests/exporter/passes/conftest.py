"""pytest explains the asserts of the harness as it does those of a test."""

import pytest

pytest.register_assert_rewrite("tests.exporter.passes.harness")

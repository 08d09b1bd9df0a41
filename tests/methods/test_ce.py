"""The baseline: nothing but hard labels."""

import pytest
from lessons import make

from kdbench.errors import ConfigError
from kdbench.method import build_method, resolve_options
from kdbench.types import MethodSpec


def test_adds_no_term_and_leaves_the_hard_labels_at_full_weight():
    method = build_method(MethodSpec(name="ce"))
    assert method(make(teachers=0)[1]) == {}
    assert method.hard_weight == 1.0
    assert method.teachers == "none"
    assert not list(method.parameters())


def test_is_refused_without_ground_truth():
    with pytest.raises(ConfigError, match="nothing to learn from without ground truth"):
        resolve_options(MethodSpec(name="ce", ground_truth=False))


def test_has_no_options():
    with pytest.raises(ConfigError, match=r"method 'ce', option 'alpha': unknown; known: none"):
        build_method(MethodSpec(name="ce", options={"alpha": 0.5}))

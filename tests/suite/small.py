"""What the tests of the suite share: a suite that runs in about a second."""

import yaml

from kdbench.config import parse_suite
from kdbench.suite.plan import RegistryNames

TINY = {
    "name": "tiny",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "teachers": ["resnet20_w16"],
    "students": ["resnet8_w16"],
    "methods": ["ce", "kd"],
    "train": {"epochs": 1, "batch_size": 16},
    "profile": {"samples": 5},
}


def make_suite(**changes):
    """The tiny suite with other values; None leaves a key out."""
    raw = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    return parse_suite(yaml.safe_dump(raw), "tiny", RegistryNames())


class Notes:
    """A listener that writes down what it is told."""

    def __init__(self):
        self.plan, self.began, self.ended, self.notes, self.tried = None, [], [], [], []

    def planned(self, pending, skipped):
        self.plan = (pending, skipped)

    def started(self, spec):
        self.began.append(spec.title)

    def finished(self, record):
        self.ended.append(record.status)

    def evaluated(self, evaluation):
        self.tried.append(evaluation)

    def noted(self, text):
        self.notes.append(text)

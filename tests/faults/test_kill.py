"""A run killed without a word: the same command goes on and ends as if nothing had been."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from kdbench.config import parse_suite
from kdbench.store import Store
from kdbench.suite.api import run_suite
from kdbench.suite.plan import RegistryNames

SUITE = {
    "name": "killed",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "teachers": ["resnet20_w16"],
    "students": ["resnet8_w16"],
    "methods": ["ce", "kd"],
    "train": {"epochs": 8, "batch_size": 16, "ema_decay": 0.9},
    "profile": {"samples": 5},
}
SECONDS = 90  # a process that has not got there by then never will


@pytest.fixture
def start(tmp_path):
    suite = tmp_path / "killed.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    environment = {**os.environ, "KDBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    processes = []

    def run(results):
        command = [sys.executable, "-m", "kdbench", "run", str(suite), "--results", str(results)]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, env=environment, **piped)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ends_well(process):
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def wait_for(process, condition):
    ends = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < ends
        time.sleep(0.002)


def outcome(folder):
    """All that has to be equal, by run: no times, no dates."""
    store, found = Store(folder), {}
    for record in store.records():
        found[record.run_id] = (
            record.spec.title,
            record.status,
            record.best_epoch,
            [entry.model_dump(exclude={"seconds"}) for entry in record.history],
            record.val_metrics,
            record.test_metrics,
            store.predictions_path(record.run_id).read_bytes(),
            store.weights_path(record.run_id).read_bytes(),
        )
    return found


def test_killed_in_training_goes_on_to_the_same_end(start, tmp_path):
    broken = tmp_path / "broken"
    process = start(broken)
    # past the teacher, in the middle of a student's training
    wait_for(process, lambda: list(broken.glob("records/*.json")) and list(broken.glob("checkpoints/*.pt")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(broken.glob("checkpoints/*.pt"))) == 1
    kept = {path.name: path.read_bytes() for path in broken.glob("records/*.json")}
    assert 1 <= len(kept) < 3
    # what a kill in the middle of a write leaves behind
    (broken / "records" / ".partial-0123456789ab").write_bytes(b"half")

    output = ends_well(start(broken))
    assert f"{3 - len(kept)} runs to do, {len(kept)} finished before and kept" in output
    # undisturbed, in this process: the same decoded images, the same number of threads
    suite = parse_suite(yaml.safe_dump(SUITE), "killed", RegistryNames())
    run_suite(suite, tmp_path / "whole", cache=tmp_path / "cache")

    whole = outcome(tmp_path / "whole")
    assert len(whole) == 3
    assert {title_and_more[1] for title_and_more in whole.values()} == {"ok"}
    assert outcome(broken) == whole
    assert all((broken / "records" / name).read_bytes() == content for name, content in kept.items())
    assert not list(broken.rglob("*partial*"))
    assert not list(broken.glob("checkpoints/*"))
    assert not (broken / "records" / "superseded").exists()

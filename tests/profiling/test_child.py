"""Processes for one network each, really started."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import little
import psutil
import pytest

from kdbench.errors import ProfileError
from kdbench.profiling.child import Ready, Subject, Taken, Turn, convert_there, time_there
from kdbench.profiling.process import Child
from kdbench.profiling.runtime import Setting

TURN = Turn(samples=8, min_samples=3, budget_s=1.0)


@pytest.fixture
def start(tmp_path):
    """Starts children, and ends them after the test."""
    children = []

    def begin(load, work=time_there, setting=None):
        children.append(Child(work, Subject("it", load, 16), setting or Setting(), str(tmp_path)))
        return children[-1]

    yield begin
    for child in children:
        child.end()


def process_of(child):
    return psutil.Process(child._process.pid)


def wait_for(condition, patience_s=10.0):
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_network_is_timed_turn_by_turn(start):
    child = start(little.small)
    ready = child.answer()
    assert isinstance(ready, Ready)
    assert ready.library.startswith("torch ")
    assert ready.prepare_ms > 0
    assert ready.warm.cold_ms > 0
    for _ in range(2):
        taken = child.ask(TURN)
        assert isinstance(taken, Taken)
        assert len(taken.samples.times_ms) == 8 or taken.samples.disturbed_ms
        assert min(taken.samples.times_ms + taken.samples.disturbed_ms) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped and their peaks reset on Linux")
def test_memory_is_the_networks_own(start):
    light, heavy = (start(partial(little.Weighing, size)).answer().memory.peak_rss_bytes for size in (1, 65))
    assert 56 * 2**20 < heavy - light < 96 * 2**20  # once, and not a second time as a copy


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_it_is_stopped_while_it_is_not_asked(start):
    child = start(little.small)
    child.answer()
    child.ask(TURN)
    wait_for(lambda: process_of(child).status() == psutil.STATUS_STOPPED)
    assert child.ask(TURN)
    wait_for(lambda: process_of(child).status() == psutil.STATUS_STOPPED)


def test_threads_are_the_settings(start):
    child = start(partial(little.small, 3), setting=Setting(threads=2, batch_size=3))
    assert child.answer().warm.calls >= 1


def test_what_goes_wrong_is_one_line(start):
    with pytest.raises(ProfileError) as problem:
        start(little.absent).answer()
    assert "no such network" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_what_is_printed_there_stays_there(start, capfd):
    start(little.noisy).answer()
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_says_how(start):
    with pytest.raises(ProfileError, match="ended by SIGKILL: out of memory"):
        start(little.deadly).answer()


def test_asking_the_dead(start):
    child = start(little.small)
    child.answer()
    process_of(child).kill()
    with pytest.raises(ProfileError, match="ended by SIGKILL"):
        child.ask(TURN)


def test_a_runtime_without_files_converts_nothing(start, tmp_path):
    assert start(little.small, convert_there).answer() is None
    assert list(tmp_path.iterdir()) == []


def test_the_users_script_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import kdbench\n"
        "print('begun')\n"
        "record, = kdbench.profile(['resnet8_w16'], image_size=32, measures=kdbench.Measures(check=False,\n"
        "    sampling=kdbench.Sampling(rounds=1, samples=5)))\n"
        "print('timed', len(record.latencies))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["begun", "timed 1"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells a process of its parent's death on Linux only")
def test_a_stopped_child_does_not_outlive_its_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from kdbench.profiling.process import Child\n"
        "from kdbench.profiling.child import Subject, time_there\n"
        "from kdbench.profiling.runtime import Setting\n"
        "from kdbench.suite.profile import untrained\n"
        "from kdbench.types import ModelChoice\n"
        "from functools import partial\n"
        "load = partial(untrained, ModelChoice(name='resnet8_w16'), 5, 32)\n"
        f"child = Child(time_there, Subject('it', load, 32), Setting(), {str(tmp_path)!r})\n"
        "child.answer()\n"
        "child.stop()\n"
        "print(child._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

"""A seed depends on what it is for, and on nothing else."""

from __future__ import annotations

import subprocess
import sys

from kdbench.seeding import derive


def test_seed_stays_what_it_was() -> None:
    # generated images and the order of batches hang on it: another value means other results under the same run_id
    assert derive("synthetic", 0, 1) == 4674766674148156677


def test_seed_is_the_same_in_another_process() -> None:
    script = "from kdbench.seeding import derive; print(derive('a', 3))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive("a", 3)


def test_every_part_counts_and_so_does_the_order() -> None:
    seeds = [derive("a", 1), derive("a", 2), derive("b", 1), derive(1, "a"), derive("a"), derive("a", 1, 0), derive()]
    assert len(set(seeds)) == len(seeds)


def test_parts_do_not_run_together() -> None:
    assert derive("ab", "c") != derive("a", "bc")
    assert derive(1, 23) != derive(12, 3)
    assert derive("1") != derive(1)


def test_seeds_fill_63_bits_evenly() -> None:
    seeds = [derive("x", number) for number in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    # the mean of 2000 uniform numbers: standard deviation 0.29 / sqrt(2000) = 0.0065
    assert abs(sum(seeds) / len(seeds) / 2**63 - 0.5) < 0.03
    for bit in range(63):
        assert 800 < sum(seed >> bit & 1 for seed in seeds) < 1200

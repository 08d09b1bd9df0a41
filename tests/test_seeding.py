"""Seeds are functions of names and numbers."""

from __future__ import annotations

from kdbench.seeding import derive


def test_a_seed_does_not_drift() -> None:
    # SHA-256 of "str:order\x1fint:0\x1fint:7", its first eight bytes, shifted right by one
    import hashlib

    digest = hashlib.sha256(b"str:order\x1fint:0\x1fint:7").digest()
    assert derive("order", 0, 7) == int.from_bytes(digest[:8], "big") // 2


def test_every_part_and_the_order_matter() -> None:
    seeds = {derive("a", 1, 2), derive("a", 2, 1), derive("b", 1, 2), derive("a", 12), derive("a", "1", 2), derive("a")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)

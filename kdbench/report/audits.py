"""The page of an audit: what is doubled, mislabelled, odd or coloured differently in a data set. Floor 6; no torch.

A pure function of the record. It names files and shows none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kdbench.findings import ODD_KINDS, AuditRecord, Colours, ImagePair, OriginalsFound, PairedImage, PairKind
from kdbench.report.text import escape, grid, machine, made_with, version

PAIRS_SHOWN = 30
"""Pairs of one kind in a table of the page; the record has more."""

_LEFT, _RIGHT = "left", "right"


def render_audit(record: AuditRecord) -> str:
    """The whole page, Markdown that ends with a newline."""
    conflicts = [pair for pair in record.pairs if pair.conflict]
    blocks = [
        f"# Audit of {escape(record.name)}",
        _in_short(record),
        "## Images",
        _images(record),
        *_published(record),
        *_conflicts(record, conflicts),
        *_pairs(record, "exact", "Exact duplicates", "Files with the same bytes: each with the first of its group."),
        *_pairs(record, "near", "Near duplicates", _NEAR),
        *_originals(record.originals),
        *_odd(record),
        *_left_out(record),
        *_shapes(record),
        *_colours(record),
        "## How it was made",
        _how(record),
        *made_with([record.command]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


_NEAR = (
    "Pictures that show the same, but not byte for byte: turned, mirrored, encoded anew, recoloured, scaled or "
    "shifted a little, or one cell photographed twice. *Hash* counts the bits of 256 in which perceptual hashes "
    "differ; *detail* is the correlation of what is left without everything smooth, 1 at most."
)


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _in_short(record: AuditRecord) -> str:
    exact, near = record.counts["exact"], record.counts["near"]
    beside = sum(record.beside.values())
    again = record.exact_images - record.exact_groups
    parts = [
        f"**{_plural(record.images, 'image')}**" + (f" ({beside:,} of them beside the data set)" if beside else ""),
        f"**{_plural(again, 'exact duplicate')}** in {_plural(record.exact_groups, 'group')}",
        f"**{_plural(near.pairs, 'pair')} of near duplicates**",
        f"**{_plural(exact.conflicts + near.conflicts, 'label conflict')}**",
        f"**{_plural(exact.across_sides + near.across_sides, 'pair')} across the sides** of the split{_sides(record)}",
    ]
    if len(record.sources) > 1:
        parts.append(f"{_plural(exact.across_sources + near.across_sources, 'pair')} across sources")
    lines = ["; ".join(parts) + "."]
    if record.copies:
        lines.append(
            f"{_plural(record.copies, 'more pair is', 'more pairs are')} copies of one original or of one group, "
            "which the source says; they are not listed."
        )
    if record.blank:
        lines.append(f"{_plural(record.blank, 'image')} without any detail: compared by their bytes alone.")
    odd = ", ".join(f"{found.count:,} {ODD_KINDS[found.kind][0]}" for found in record.odd)
    lines.append(f"Odd files: {odd or 'none'}. Left out: {sum(entry.count for entry in record.left_out):,}.")
    return " ".join(lines)


def _sides(record: AuditRecord) -> str:
    """Which sides, where there are any."""
    total: Counter[str] = Counter()
    for counts in record.counts.values():
        total.update(counts.by_sides)
    listed = ", ".join(f"{escape(sides)} {count:,}" for sides, count in sorted(total.items()))
    return f" ({listed})" if listed else ""


def _images(record: AuditRecord) -> str:
    sides = list(record.splits)
    body = [[escape(label), *(f"{record.splits[side].get(label, 0):,}" for side in sides)] for label in record.classes]
    body.append(["**all**", *(f"{sum(record.splits[side].values()):,}" for side in sides)])
    sources = ", ".join(f"{escape(name)} {count:,}" for name, count in record.sources.items())
    beside = ", ".join(f"{escape(name)} {count:,}" for name, count in record.beside.items())
    note = f"\n\nBeside the data set, on no side: {beside}." if beside else ""
    split = f" Split by the protocol {escape(record.protocol)}." if record.protocol else ""
    return f"Sources: {sources}.{split}\n\n{grid(body, ['class', *sides], [_LEFT, *[_RIGHT] * len(sides)])}{note}"


def _published(record: AuditRecord) -> list[str]:
    if not record.differences:
        return ["Every source whose published counts are known holds as many images of each class."]
    return ["\n".join(f"- {escape(line)}" for line in record.differences)]


def _conflicts(record: AuditRecord, conflicts: Sequence[ImagePair]) -> list[str]:
    total = sum(counts.conflicts for counts in record.counts.values())
    if not total:
        return []
    return [
        "## Label conflicts",
        "The same picture under two labels; at least one of them is wrong.",
        _table(conflicts[:PAIRS_SHOWN]),
        _more(total, min(len(conflicts), PAIRS_SHOWN)),
    ]


def _pairs(record: AuditRecord, kind: PairKind, heading: str, about: str) -> list[str]:
    pairs, counts = [pair for pair in record.pairs if pair.kind == kind], record.counts[kind]
    if not counts.pairs:
        return [f"## {heading}", "None."]
    facts = (
        f"{_plural(counts.pairs, 'pair')}, {counts.conflicts:,} with two labels, {counts.across_sides:,} across the "
        f"sides of the split, {counts.across_sources:,} across sources."
    )
    return [
        f"## {heading}",
        f"{about} {facts}",
        _table(pairs[:PAIRS_SHOWN]),
        _more(counts.pairs, min(len(pairs), PAIRS_SHOWN)),
    ]


def _table(pairs: Iterable[ImagePair]) -> str:
    body = [
        [
            _name(pair.first),
            _name(pair.second),
            _both(pair.first.label, pair.second.label),
            _both(pair.first.side, pair.second.side),
            escape(pair.turn) or "–",
            str(pair.hash_distance),
            f"{pair.detail:.2f}",
        ]
        for pair in pairs
    ]
    headings = ["first", "second", "label", "side", "turn", "hash", "detail"]
    return grid(body, headings, [*[_LEFT] * 5, _RIGHT, _RIGHT])


def _name(image: PairedImage) -> str:
    return escape(image.id)


def _both(first: str, second: str) -> str:
    return escape(first) if first == second else f"**{escape(first)} / {escape(second)}**"


def _more(total: int, shown: int) -> str:
    return f"And {total - shown:,} more." if total > shown else ""


def _originals(found: OriginalsFound | None) -> list[str]:
    if found is None:
        return []
    splits = ", ".join(f"{escape(side)} {count:,}" for side, count in found.by_split.items())
    facts = [
        ["images", f"{found.images:,}"],
        ["originals to choose from", f"{found.originals:,}"],
        ["images whose original is known", f"{found.found:,} ({100 * found.share:.2f} %)"],
        ["distinct originals by side", splits or "–"],
        ["originals on more than one side", f"{found.in_several_splits:,}"],
        ["pairs of originals that show one place", f"{found.overlapping:,}"],
        ["of these, across the sides", _crossing(found)],
        ["inliers of the original, median (5th percentile)", f"{found.inliers_median:g} ({found.inliers_p5:g})"],
        ["inliers of the runner-up, median (95th percentile)", f"{found.runner_up_median:g} ({found.runner_up_p95:g})"],
        *([escape(fact.what), escape(fact.figure)] for fact in found.validation),
    ]
    return [f"## Originals of {escape(found.source)}", grid(facts, ["what", "figure"], [_LEFT, _LEFT])]


def _crossing(found: OriginalsFound) -> str:
    pairs = found.overlapping_across
    return f"{len(pairs):,}" + (f" ({escape(', '.join(pairs[:PAIRS_SHOWN]))})" if pairs else "")


def _odd(record: AuditRecord) -> list[str]:
    if not record.odd:
        return []
    body = [
        [
            ODD_KINDS[found.kind][0],
            f"{found.count:,}",
            ODD_KINDS[found.kind][1],
            ", ".join(map(escape, found.named[:3])) + (", …" if found.count > 3 else ""),
        ]
        for found in record.odd
    ]
    return ["## Odd files", grid(body, ["what", "files", "what becomes of them", "for example"],
                                 [_LEFT, _RIGHT, _LEFT, _LEFT])]  # fmt: skip


def _left_out(record: AuditRecord) -> list[str]:
    if not record.left_out:
        return []
    body = [[escape(entry.path), f"{entry.count:,}", escape(entry.reason)] for entry in record.left_out]
    return ["## Left out", grid(body, ["file or folder", "files", "why"], [_LEFT, _RIGHT, _LEFT])]


def _shapes(record: AuditRecord) -> list[str]:
    if not record.shapes:
        return []

    def sides(values: tuple[int, float, int]) -> str:
        low, middle, high = values
        return str(low) if low == high else f"{low} to {high}, median {middle:g}"

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{escape(name)} {count:,}" for name, count in counts.items())

    body = [
        [escape(s.source), sides(s.width), sides(s.height), listed(s.formats), listed(s.modes)] for s in record.shapes
    ]
    return ["## Files as they are stored", grid(body, ["source", "width (px)", "height (px)", "format", "mode"],
                                                [_LEFT] * 5)]  # fmt: skip


def _colours(record: AuditRecord) -> list[str]:
    whole = [colours for colours in record.colours if not colours.label]
    by_class = [colours for colours in record.colours if colours.label]
    return [
        "## Colour and stain",
        "Without black fill. *Background* is the lightness L\\* of an image's brightest tenth, *stain* the optical "
        "density, -log10(value / 255), of stained pixels above their background, *stained* the share of pixels whose "
        "density is 0.15 above it, *hue* their mean hue in CIE L\\*a\\*b\\* (0° red, 270° blue). After ±: the "
        "deviation between images for background and stain, between pixels for the rest.",
        _colour_table(whole, False),
        "By class:",
        _colour_table(by_class, True),
    ]


def _colour_table(rows: Sequence[Colours], by_class: bool) -> str:
    def three(mean: Sequence[float], std: Sequence[float]) -> list[str]:
        return [f"{value:.0f} ± {spread:.0f}" for value, spread in zip(mean, std, strict=True)]

    headings = ["source", *(["class"] if by_class else []), "images", "R", "G", "B", "L\\*", "a\\*", "b\\*",
                "background", "stain", "stained", "hue", "black fill"]  # fmt: skip
    body = [
        [
            escape(row.source),
            *([escape(row.label)] if by_class else []),
            f"{row.images:,}",
            *three(row.rgb_mean, row.rgb_std),
            *three(row.lab_mean, row.lab_std),
            f"{row.background:.1f} ± {row.background_std:.1f}",
            f"{row.density:.2f} ± {row.density_std:.2f}",
            f"{100 * row.stained:.0f} %",
            f"{row.hue_degrees:.0f}°",
            f"{100 * row.fill:.1f} %",
        ]
        for row in rows
    ]
    lead = 2 if by_class else 1
    return grid(body, headings, [*[_LEFT] * lead, *[_RIGHT] * (len(headings) - lead)])


def _how(record: AuditRecord) -> str:
    facts = [
        *([escape(fact.what), escape(fact.figure)] for fact in record.limits),
        ["decoded to", f"{record.image_size} px"],
        ["content", escape(record.content_hash)],
        ["machine", escape(machine(record.environment))],
        ["kdbench", escape(version(record.environment))],
        ["started", escape(record.started)],
        ["took", f"{record.seconds:.0f} s"],
    ]
    return grid(facts, ["what", "figure"], [_LEFT, _LEFT])

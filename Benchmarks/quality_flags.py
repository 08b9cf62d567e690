"""Sensitivity and specificity of the quality flags on injected errors.

Takes correct segmentations (expert contours without a CT, planning CTs with clinical contours, phantoms with exact
truth), injects one error at a time, and asks whether a flag meant for it is raised on the organ it was injected into.
Specificity is the share of correct organs, or scans, on which the flag is not raised. Thresholds are set on the part
``calibration`` and measured on the part ``report``; the two share no patient and no phantom.

    python Benchmarks/quality_flags.py --data DATA --phantoms 4 --per-case 3 --seed 1

Without ``--data`` only phantoms and simple shapes are used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args
from zlib import crc32

import numpy as np
from focusnet.organs import CATALOGUE
from focusnet.quality import Flag, check_input, check_output
from injected.cases import Case, Part, contour_cases, phantom_cases, planning_cases
from injected.errors import INJECTIONS, input_errors, other_bodies

Finding = tuple[str, str | None]

# Flags that stand for one error are counted as one.
OUTPUT_GROUPS = (
    ("missing",),
    ("sides_swapped",),
    ("outside_body",),
    ("several_components",),
    ("volume_out_of_range", "asymmetric"),
    ("touching",),
    ("cut_by_field_of_view",),
)
INPUT_GROUPS = (("not_hu",), ("not_head_and_neck",), ("truncated",))
SHAPES = 10


@dataclass
class Tally:
    """What was counted.

    Attributes:
        caught: Hits by group of flags, kind of error and source.
        organs: Codes raised on each correct organ, by group of flags that could be raised there.
        scans: The same for each correct scan.
        escaped: Errors that no flag caught, in words.
        false: Flags on correct organs and scans, in words.
        volumes_ml: Volumes of correct organs that the scan holds whole.
    """

    caught: dict[tuple[tuple[str, ...], str, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    organs: list[tuple[bool, set[str]]] = field(default_factory=list)
    scans: list[set[str]] = field(default_factory=list)
    escaped: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    volumes_ml: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def error(self, kind: str, source: str, wanted: frozenset[Finding], found: set[Finding], name: str) -> None:
        """Count one injected error."""
        codes = {code for code, _ in wanted}
        group = next(g for g in OUTPUT_GROUPS + INPUT_GROUPS if codes & {*g})
        self.caught[group, kind, source].append(bool(wanted & found))
        if not wanted & found:
            hurt = ", ".join(sorted({key for _, key in wanted if key}))
            self.escaped.append(f"{kind}: {source}, {name} {hurt}".rstrip())

    def correct(self, case: Case) -> None:
        """Count the flags on a correct case."""
        raised: dict[str | None, set[str]] = defaultdict(set)
        for code, key in findings(check_output(case.labels, case.volume, case.organs)):
            if code != "cut_by_field_of_view" or not case.is_cut(str(key)):
                raised[key].add(code)
        for key in case.organs:
            self.organs.append((case.volume is not None, raised[key]))
            self.false += [f"{code}: {case.source}, {case.name} {key}" for code in sorted(raised[key])]
            if not case.is_cut(key):
                value = case.labels.label_of(key)
                voxels = np.count_nonzero(case.labels.array[case.boxes[key].slices] == value)
                self.volumes_ml[key].append(voxels * case.labels.geometry.voxel_volume_ml)
        if case.volume is not None:
            codes = {code for code, _ in findings(check_input(case.volume))}
            self.scans.append(codes)
            self.false += [f"{code}: {case.source}, {case.name}" for code in sorted(codes)]


def findings(flags: list[Flag]) -> set[Finding]:
    """Codes with their organs."""
    return {(flag.code, flag.organ) for flag in flags}


def measure(cases: Iterator[Case], per_case: int, seed: int) -> Tally:
    """Count the flags on correct cases, and on each case with one error at a time.

    Each case has random numbers of its own, so that its errors don't depend on the other cases.
    """
    tally = Tally()
    for case in cases:
        tally.correct(case)
        organs = case.organs
        rng = np.random.default_rng([seed, crc32(case.name.encode())])
        for inject in INJECTIONS:
            errors = (inject(case, str(key), rng) for key in rng.permutation(organs))
            for error in islice((e for e in errors if e), per_case):
                found = findings(check_output(error.case.labels, error.case.volume, organs))
                tally.error(error.kind, case.source, error.wanted, found, case.name)
        for kind, volume, code in input_errors(case, rng):
            wanted: frozenset[Finding] = frozenset({(code, None)})
            tally.error(kind, case.source, wanted, findings(check_input(volume)), case.name)
    for kind, volume, code in other_bodies(np.random.default_rng(seed), SHAPES):
        tally.error(kind, "simple shapes", frozenset({(code, None)}), findings(check_input(volume)), "")
    return tally


def show(tally: Tally, part: Part) -> None:
    """Print the counts as Markdown."""
    print(f"### Flags, part `{part}`\n\n| flag | errors | caught | sensitivity | correct | not raised | specificity |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for group in OUTPUT_GROUPS + INPUT_GROUPS:
        hits = [hit for (of, _, _), some in tally.caught.items() if of == group for hit in some]
        if group in INPUT_GROUPS:
            correct = tally.scans
        else:
            correct = [raised for has_ct, raised in tally.organs if has_ct or group != ("outside_body",)]
        _line(" or ".join(group), hits, [not raised & {*group} for raised in correct])
    hits = [hit for some in tally.caught.values() for hit in some]
    _line("**all**", hits, [not raised for raised in [*(raised for _, raised in tally.organs), *tally.scans]])
    sources = list(dict.fromkeys(source for _, _, source in tally.caught))
    print(f"\n| injected error, caught of all | {' | '.join(sources)} |\n|---|{'---:|' * len(sources)}")
    for group, kind in dict.fromkeys((group, kind) for group, kind, _ in tally.caught):
        some = [tally.caught.get((group, kind, source), []) for source in sources]
        print(f"| {kind} | {' | '.join(f'{sum(hits)} of {len(hits)}' if hits else '' for hits in some)} |")
    print("\n| organ | whole | least ml | greatest ml | range ml | within |\n|---|---:|---:|---:|---:|---:|")
    for key in [key for key in CATALOGUE if key in tally.volumes_ml]:
        volumes, (low, high) = np.array(tally.volumes_ml[key]), CATALOGUE[key].volume_range_ml
        share = ((volumes >= low) & (volumes <= high)).mean()
        spread = f"{volumes.min():.3g} | {volumes.max():.3g} | {low:g} to {high:g}"
        print(f"| {CATALOGUE[key].name} | {len(volumes)} | {spread} | {share:.3f} |")
    for title, lines in (("Escaped", tally.escaped), ("Raised on correct organs and scans", tally.false)):
        print(f"\n{title}:\n\n" + "\n".join(f"- {line}" for line in sorted(lines)))


def _line(name: str, hits: list[bool], quiet: list[bool]) -> None:
    found = f"{len(hits)} | {sum(hits)} | {np.mean(hits):.3f}" if hits else "0 | 0 | –"
    rest = f"{len(quiet)} | {sum(quiet)} | {np.mean(quiet):.3f}" if quiet else "0 | 0 | –"
    print(f"| {name} | {found} | {rest} |")


def main() -> None:
    """Inject, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with contours/ and openkbp/")
    parser.add_argument("--part", choices=get_args(Part), default="report", help="cases to use")
    parser.add_argument("--phantoms", type=int, default=4, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=1, help="seed of the errors and first seed of the phantoms")
    parser.add_argument("--per-case", type=int, default=2, help="organs spoiled per case and kind of error")
    arguments = parser.parse_args()
    part: Part = arguments.part

    def cases() -> Iterator[Case]:
        if arguments.data is not None:
            yield from contour_cases(arguments.data / "contours", part)
            yield from planning_cases(arguments.data / "openkbp", part)
        yield from phantom_cases(arguments.phantoms, arguments.seed, part)

    show(measure(cases(), arguments.per_case, arguments.seed), part)


if __name__ == "__main__":
    main()

"""How many small faults in the code that proves and publishes do the unit tests notice?

    pip install mutmut==3.8.0
    python -m tests.mutation                       # every file of FILES, into benchmarks/results/mutation.{json,md}
    python -m tests.mutation exporter/runtime/tokens.py    # one file, and nothing is written
    python -m tests.mutation --jobs 2              # on two cores
    python -m tests.mutation --sample 100          # at most 100 mutants a file, drawn with --seed
    python -m tests.mutation exporter/runtime/tokens.py --only batches_by_length   # mutants whose name holds that

Each mutant costs as much as its tests do, about half a second of one core. A mutant that no test can notice, because
nothing it does differs, is listed with the reason in ``equivalent.yaml``, by name; such mutants are left out of the
score, and an entry that a test notices after all is reported as wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.trials import ROOT, Outcome, Tests, run, run_all, warm_up

FILES = (
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "exporter" / "validator").rglob("*.py")),
    *(f"exporter/bundle/{name}.py" for name in ("atomic", "bundle", "manifest", "publish")),
    *(
        f"exporter/checkpoint/{name}.py"
        for name in ("checks", "configuration", "facts", "loading", "reference", "tokenizer_anchor", "weights")
    ),
    "exporter/graph/census.py",
    "exporter/precisions/int8/search.py",
    "exporter/runtime/tokens.py",
)
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
TARGET = 0.9

_PROVENANCE = ROOT / "exporter" / "validator" / "provenance"

# Tests of a file besides those that are named after it.
ALSO: Mapping[str, tuple[str, ...]] = {
    # They work together: most tests call check_weights or check_graph.
    **{
        str(path.relative_to(ROOT)): tuple(
            str(test.relative_to(ROOT))
            for test in sorted((ROOT / "tests" / "unit" / "validator" / "provenance").glob("test_*.py"))
        )
        for path in _PROVENANCE.glob("*.py")
    },
    **{
        f"exporter/checkpoint/{name}.py": ("tests/unit/checkpoint/test_loading.py",)
        for name in ("checks", "facts", "reference")
    },
    "exporter/checkpoint/checks.py": ("tests/unit/checkpoint/test_loading.py", "tests/unit/test_recipe.py"),
    "exporter/bundle/manifest.py": (
        "tests/unit/bundle/test_bundle.py",
        "tests/unit/bundle/test_bundle_edges.py",
        "tests/unit/test_bundle_formats.py",
    ),
    # The quick ones first: a mutant is killed by the first test that fails.
    **{
        str(path.relative_to(ROOT)): tuple(
            f"tests/unit/validator/test_{name}.py"
            for name in ("sweeps_exact", "sweep_inputs_exact", "sweep_inputs", "sweeps")
        )
        for path in (ROOT / "exporter" / "validator" / "sweeps").glob("*.py")
    },
    # Without test_triggers.py, which loads two encoders for each mutant.
    **{
        str(path.relative_to(ROOT)): tuple(
            f"tests/unit/validator/dataflow/test_{name}.py" for name in ("rules", "widths", "check")
        )
        for path in (ROOT / "exporter" / "validator" / "dataflow").glob("*.py")
    },
    "exporter/validator/check.py": ("tests/unit/validator/test_report.py",),
    "exporter/validator/parity.py": ("tests/unit/validator/test_gates.py",),
}


@dataclass(frozen=True)
class Trial:
    """A mutant and what became of it; ``reason`` where it is listed as equivalent."""

    mutant: Mutant
    outcome: Outcome
    reason: str | None

    @property
    def noticed(self) -> bool:
        """Whether a test failed, or ran for ever."""
        return self.outcome.status != "survived"


@dataclass(frozen=True)
class Score:
    """The mutants of one file.

    Attributes:
        file: The file.
        tests: Which tests ran.
        mutants: How many there are.
        trials: Those that were tried.
    """

    file: str
    tests: tuple[str, ...]
    mutants: int
    trials: tuple[Trial, ...]

    @property
    def killed(self) -> int:
        """Mutants that a test noticed."""
        return sum(trial.noticed for trial in self.trials)

    @property
    def equivalent(self) -> tuple[Trial, ...]:
        """Mutants that no test could notice."""
        return tuple(trial for trial in self.trials if trial.reason is not None and not trial.noticed)

    @property
    def survived(self) -> tuple[Trial, ...]:
        """Mutants that a test should have noticed."""
        return tuple(trial for trial in self.trials if trial.reason is None and not trial.noticed)

    @property
    def counted(self) -> int:
        """Mutants that the score is of."""
        return self.killed + len(self.survived)

    @property
    def share(self) -> float:
        """Killed mutants of those counted; 1 where there are none."""
        return self.killed / self.counted if self.counted else 1.0


def main() -> int:
    """Run the mutants, print what survived, and write the results where all files were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="files to mutate; by default all, and results go out")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each file, at most; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name holds this")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where JSON and Markdown go")
    options = parser.parse_args()
    files = options.files or FILES

    began = time.monotonic()
    warm_up()
    known = {entry["mutant"]: entry["reason"] for entry in yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8"))}
    with tempfile.TemporaryDirectory(prefix="korsbert-mutation-") as scratch:
        scores = [score_of(file, Path(scratch), known, options) for file in files if mutants_in(file)]
    for problem in wrong_entries(scores, known):
        print(problem, file=sys.stderr)
    total = sum(score.killed for score in scores) / max(1, sum(score.counted for score in scores))
    print(f"{total:.1%} killed in {time.monotonic() - began:.0f} s")
    if not options.files or options.results is not None:
        write(scores, options, time.monotonic() - began)
    return 0 if total >= TARGET else 1


def mutants_in(file: str) -> list[Mutant]:
    """Return all mutants of a file."""
    return mutants_of(file, (ROOT / file).read_text(encoding="utf-8"))


def tests_of(file: str) -> tuple[Path, ...]:
    """Return the unit tests that are named after a file; where there are none, those that import it."""
    unit = ROOT / "tests" / "unit"
    folder, stem = (unit / file.removeprefix("exporter/")).parent, Path(file).stem
    named = sorted({*folder.glob(f"test_{stem}.py"), *folder.glob(f"test_{stem}_*.py")})
    named += [ROOT / path for path in ALSO.get(file, ())]
    if named:
        return tuple(dict.fromkeys(named))
    imports = re.compile(rf"\b{re.escape(file.removesuffix('.py').replace('/', '.'))}\b")
    return tuple(path for path in sorted(unit.rglob("test_*.py")) if imports.search(path.read_text(encoding="utf-8")))


def score_of(file: str, scratch: Path, known: Mapping[str, str], options: argparse.Namespace) -> Score:
    """Try the mutants of one file. Where it has no tests, every mutant survives."""
    paths, mutants = tests_of(file), mutants_in(file)
    chosen = [mutant for mutant in mutants if options.only in mutant.name]
    if options.sample is not None and len(chosen) > options.sample:
        picked = random.Random(f"{options.seed} {file}").sample(range(len(chosen)), options.sample)
        chosen = [chosen[place] for place in sorted(picked)]
    trials = []
    for mutant, outcome in _outcomes(file, paths, chosen, scratch, options.jobs):
        trials.append(Trial(mutant, outcome, known.get(mutant.name)))
        if not trials[-1].noticed and trials[-1].reason is None:
            print(f"  survived: {mutant.name}", flush=True)
    score = Score(file, tuple(str(path.relative_to(ROOT)) for path in paths), len(mutants), tuple(trials))
    print(f"{file}: {score.killed} of {score.counted} killed, {score.share:.1%}", flush=True)
    return score


def _outcomes(
    file: str, paths: tuple[Path, ...], mutants: Sequence[Mutant], scratch: Path, jobs: int
) -> Iterator[tuple[Mutant, Outcome]]:
    if not paths:
        print(f"{file}: no unit test imports it, or is named after it", flush=True)
        yield from ((mutant, Outcome("survived", "", 0.0)) for mutant in mutants)
        return
    for _ in range(2):  # the first makes what the tests share, and is slower
        sound = run(Tests(paths, scratch, 1000), None)
        if sound.status != "survived":
            said = (scratch / "run" / "output").read_text(encoding="utf-8")
            raise SystemExit(f"{file}: its tests fail as they are: {sound.by}\n{said}")
    print(f"{file}: {len(mutants)} mutants, {sound.seconds:.2f} s each", flush=True)
    yield from run_all(Tests(paths, scratch, 10 * sound.seconds + 5), mutants, jobs)


def wrong_entries(scores: Sequence[Score], known: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the list of equivalent mutants: entries that were killed, or that are of no mutant."""
    tried = [trial for score in scores for trial in score.trials]
    wrong = [
        f"listed as equivalent, and killed: {trial.mutant.name}" for trial in tried if trial.reason and trial.noticed
    ]
    whole = {score.file for score in scores if len(score.trials) == score.mutants}
    names = {trial.mutant.name for trial in tried}
    stale = [name for name in known if name.partition(":")[0] in whole and name not in names]
    return wrong + [f"listed as equivalent, and no mutant: {name}" for name in stale]


def interval(killed: int, counted: int, of: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, estimated from ``counted`` of ``of`` mutants."""
    if counted >= of or not counted:
        return (killed / counted, killed / counted) if counted else (0.0, 1.0)
    z = 1.96 * math.sqrt((of - counted) / (of - 1))
    share, spread = killed / counted, z * z / counted
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / counted + spread / 4 / counted) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def overall(scores: Sequence[Score]) -> tuple[float, float]:
    """Return the share killed of all mutants, each file weighted by how many it has, and half its 95% interval."""
    total = sum(score.mutants for score in scores)
    share = sum(score.mutants * score.share for score in scores) / total
    variance = 0.0
    for score in scores:
        if score.counted > 1 and len(score.trials) < score.mutants:
            correction = (score.mutants - len(score.trials)) / (score.mutants - 1)
            variance += (score.mutants / total) ** 2 * score.share * (1 - score.share) / score.counted * correction
    return share, 1.96 * math.sqrt(variance)


def write(scores: Sequence[Score], options: argparse.Namespace, seconds: float) -> None:
    """Write the results as the benchmarks do."""
    from benchmarks.results import RESULTS, Target, publish, table  # exporter is imported only after the last fork

    share, half = overall(scores)
    rows = [_row(score) for score in scores]
    counts = [str(sum(values)) for values in zip(*(_counts(score) for score in scores), strict=True)]
    estimate = f"{share:.1%}" + (f" (± {half:.1%})" if half else "")
    rows.append(("all", *counts, estimate, ""))
    header = ("file", "mutants", "tried", "killed", "by time", "equivalent", "survived", "killed of counted", "95%")
    sections = [
        "# Mutation testing",
        f"`python -m tests.mutation{_arguments(options)}`: {seconds / 60:.0f} minutes. Small changes to the source, "
        "one at a time; a mutant is killed where a unit test of its file fails, or takes ten times as long (by time). "
        "Equivalent mutants are not counted.",
        table(header, rows),
        "## Survived",
        _listed(f"`{trial.mutant.name}`" for score in scores for trial in score.survived),
        "## Equivalent",
        _listed(f"`{trial.mutant.name}`: {trial.reason}" for score in scores for trial in score.equivalent),
    ]
    data = {
        "sample": options.sample,
        "seed": options.seed,
        "seconds": round(seconds),
        "killed": share,
        "half_interval": half,
        "files": [_as_json(score) for score in scores],
    }
    targets = [Target("share of mutants killed", share, TARGET, at_least=True)]
    publish("mutation", options.results or RESULTS, data, sections, targets)


def _arguments(options: argparse.Namespace) -> str:
    files = "".join(f" {file}" for file in options.files)
    return files + (f" --sample {options.sample} --seed {options.seed}" if options.sample is not None else "")


def _counts(score: Score) -> tuple[int, ...]:
    endless = sum(trial.outcome.status == "timeout" for trial in score.trials)
    return score.mutants, len(score.trials), score.killed, endless, len(score.equivalent), len(score.survived)


def _row(score: Score) -> tuple[str, ...]:
    low, high = interval(score.killed, score.counted, score.mutants - len(score.equivalent))
    between = f"{low:.1%} to {high:.1%}" if len(score.trials) < score.mutants else "all tried"
    return (f"`{score.file}`", *map(str, _counts(score)), f"{score.share:.1%}", between)


def _listed(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items) or "None."


def _as_json(score: Score) -> dict[str, Any]:
    return {
        "file": score.file,
        "sha256": hashlib.sha256((ROOT / score.file).read_bytes()).hexdigest(),
        "tests": list(score.tests),
        "mutants": score.mutants,
        "tried": len(score.trials),
        "killed": score.killed,
        "share": score.share,
        "survived": [trial.mutant.name for trial in score.survived],
        "equivalent": [{"mutant": trial.mutant.name, "reason": trial.reason} for trial in score.equivalent],
    }


if __name__ == "__main__":
    sys.exit(main())

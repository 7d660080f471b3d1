"""A soak of the python runtime under a real tritonserver: ragged and hostile requests, reloads, killed processes.

    make .venv-triton/ready && python -m benchmarks.soak

Many clients send requests of one to eight texts of all lengths and compare every vector with the one that the bundle
gives the text in process. A share of the requests is hostile. Meanwhile the bundle is shipped again and again as a new
version, which the server loads because it polls the repository. In the last quarter of the time, python processes of
the server, or the server itself, are killed, and the server is restarted as an orchestrator would. Every request,
reload and restart has a deadline, so the run ends whatever the server does.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import DEMO, Target, arguments, publish, table, twin_recipe, work_folder
from benchmarks.soak_clients import SOUND, Clients, Outcome, Texts, hostile_requests, ragged_texts
from benchmarks.soak_server import KILLS_SHARE, Disturbances, Event, Memory, Sample
from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE
from exporter.calibration import calibration_sentences
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.recipe import load_recipe
from exporter.serving.concurrency import load_bound
from exporter.serving.triton import Options, ship
from exporter.serving.triton.kubernetes import PROBE_FAILURES, PROBE_PERIOD_S
from tests.support.triton import running

NAME = "soak"
WARM_UP = 0.1
"""Share of the time whose samples of memory do not count."""
WINDOW_S = 150.0
"""Within how many seconds after a kill the server must serve again."""
GROWTH = 0.05
MIB_OF = {
    "server and python processes, PSS": "total_mib",
    "server and python processes, RSS added up": "resident_mib",
    "server alone, PSS": "server_mib",
}


@dataclass(frozen=True)
class Plan:
    """How a soak runs.

    Attributes:
        seconds: How long clients send requests.
        clients: At the same time, half over HTTP and half over gRPC.
        hostile_share: Share of the requests that are hostile.
        event_s: Pause before each reload or kill.
        probe_s: Pause between two probes, of which three that fail restart the server.
        texts: How many different ones the requests hold.
        request_s: Most seconds for one request.
        sample_s: Seconds between two samples of memory.
        seed: Of all choices.
    """

    seconds: float
    clients: int = 32
    hostile_share: float = 0.1
    event_s: float = 30.0
    probe_s: float = float(PROBE_PERIOD_S)
    texts: int = 1024
    request_s: float = 60.0
    sample_s: float = 5.0
    seed: int = 1


@dataclass(frozen=True)
class Growth:
    """Memory after the warm-up: medians of the first and of the last fifth of the samples."""

    first: float
    last: float

    @property
    def share(self) -> float:
        """What was added, as a share of the first."""
        return self.last / self.first - 1


@dataclass(frozen=True)
class Soaked:
    """What came of a soak.

    Attributes:
        started: When the clients began, in seconds of ``time.monotonic``.
        seconds: How long they sent requests.
        outcomes: Of all requests.
        events: Reloads and kills.
        samples: Of memory.
        failed_starts: How often the server ended by itself before it served.
        bound: Largest relative difference that an answer may have.
    """

    started: float
    seconds: float
    outcomes: Sequence[Outcome]
    events: Sequence[Event]
    samples: Sequence[Sample]
    failed_starts: int
    bound: float

    @cached_property
    def sound(self) -> list[Outcome]:
        """The sound requests."""
        return [one for one in self.outcomes if one.kind == SOUND]

    @cached_property
    def hostile(self) -> list[Outcome]:
        """The hostile requests."""
        return [one for one in self.outcomes if one.kind != SOUND]

    @cached_property
    def lost(self) -> list[Outcome]:
        """Sound requests that got no vectors."""
        return [one for one in self.sound if one.result in ("lost", "timed out")]

    @cached_property
    def kills(self) -> list[Event]:
        """What was killed."""
        return [event for event in self.events if event.kind != "reload"]

    def of_kill(self, one: Outcome) -> Event | None:
        """Return the kill that explains why a request got no answer.

        It was in flight then, or was sent before the server answered again.
        """
        spans = ((kill, one.ended if kill.over is None else kill.over) for kill in self.kills)
        return next((kill for kill, over in spans if kill.at <= one.ended and one.sent <= over), None)

    def unexplained(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the requests that no kill explains."""
        return [one for one in outcomes if self.of_kill(one) is None]

    def most_in_flight(self) -> int:
        """Return the most requests in flight that one kill has cost."""
        kills = ((self.of_kill(one), one) for one in self.lost)
        return max(Counter(kill.at for kill, one in kills if kill and one.sent <= kill.at).values(), default=0)

    def growth(self, figure: str) -> Growth | None:
        """Return how a figure of the samples changed from the warm-up to the first kill; None for too few samples.

        Samples count that saw as many python processes as most: while versions change there are more.
        """
        end = min((kill.at for kill in self.kills), default=self.started + self.seconds)
        begin = self.started + WARM_UP * (end - self.started)
        settled = [one for one in self.samples if begin <= one.at < end]
        if not settled:
            return None
        ((usual, _),) = Counter(one.stubs for one in settled).most_common(1)
        values = [float(getattr(one, figure)) for one in settled if one.stubs == usual]
        fifth = len(values) // 5
        if not fifth:
            return None
        return Growth(float(np.median(values[:fifth])), float(np.median(values[-fifth:])))


def soak(bundle: Bundle, work: Path, plan: Plan) -> Soaked:
    """Serve a bundle, and send requests to the server while versions change and processes are killed.

    Args:
        bundle: To serve with the python runtime.
        work: An empty folder.
        plan: How.
    """
    manifest, options = bundle.manifest, Options(runtime="python")
    bound = load_bound(DEFAULT_MINIMUM_GATE.gate_for(manifest), manifest.engine.precision)
    models = work / "models"
    ship([bundle], models, options, name=NAME)
    candidates = ragged_texts(calibration_sentences(None, probes=()), plan.texts, options.max_text_bytes, plan.seed)
    with bundle.encoder() as encoder:
        texts = Texts(candidates, encoder, bound)
    hostile = hostile_requests(NAME, options.max_text_bytes, manifest.encoder.max_seq_length)
    polling = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with running(models, work / "triton", *polling) as server:
        clients = Clients(
            server.http,
            server.grpc,
            NAME,
            texts,
            hostile,
            count=plan.clients,
            hostile_share=plan.hostile_share,
            request_s=plan.request_s,
            seed=plan.seed,
        )
        disturbances = Disturbances(server, bundle, models, NAME, probe_s=plan.probe_s)
        memory = Memory(server, plan.sample_s)
        started = time.monotonic()
        with memory.sampling(), clients.sending():
            disturbances.run(plan.seconds, plan.event_s)
            seconds = time.monotonic() - started
    return Soaked(
        started, seconds, clients.outcomes, disturbances.events, memory.samples, disturbances.failed_starts, bound
    )


def main() -> None:
    """Soak a bundle, and write ``soak`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="to serve; by default the demo is exported")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long clients send requests")
    parser.add_argument("--clients", type=int, default=Plan.clients, help="at the same time")
    parser.add_argument("--hostile", type=float, default=Plan.hostile_share, help="share of the requests")
    parser.add_argument("--event-s", type=float, default=Plan.event_s, help="pause before each reload or kill")
    options = parser.parse_args()
    plan = Plan(60 * options.minutes, options.clients, options.hostile, options.event_s)
    load_average = os.getloadavg()[0]
    with work_folder(options.work) as work:
        bundle = Bundle.open(options.bundle) if options.bundle else _demo(work)
        result = soak(bundle, work, plan)
    sections = (
        f"# Soak of Triton's python runtime, {options.minutes:g} minutes",
        _conditions(bundle, plan, result, load_average),
        table(("request", "sent", "outcome"), _requests(result)),
        _disturbed(result),
        _memory(result),
    )
    publish("soak", options.results, _data(plan, result, load_average), sections, _targets(result, plan))


def _demo(work: Path) -> Bundle:
    recipe = load_recipe(twin_recipe("demo", "full", work))
    return export(recipe, ExportOptions(out=work / "bundles", checkpoint=DEMO, force=True))


def _targets(result: Soaked, plan: Plan) -> list[Target]:
    count = Counter(one.result for one in result.outcomes)
    missing = sum(event.over is None for event in result.events)
    unanswered = result.unexplained([one for one in result.hostile if one.result == "unanswered"])
    down = max((kill.over - kill.at for kill in result.kills if kill.over is not None), default=0.0)
    targets = [
        Target("answers further from their text's vector than allowed", count["wrong"] + count["swapped"], 0),
        Target("of these, answers nearer to another text's vector", count["swapped"], 0),
        Target("hostile requests answered with vectors", count["accepted"], 0),
        Target("hostile requests without an answer, without a kill", len(unanswered), 0),
        Target("sound requests lost without a kill", len(result.unexplained(result.lost)), 0),
        Target("sound requests not answered within their time", count["timed out"], 0),
        Target("requests in flight that one kill cost, at most", result.most_in_flight(), plan.clients),
        Target("seconds from a kill until the server served again, at most", round(down, 1), WINDOW_S),
        Target("reloads and restarts that did not come", missing, 0),
    ]
    if growth := result.growth("total_mib"):
        targets.append(Target("growth of memory (PSS) after the warm-up", round(growth.share, 4), GROWTH))
    return targets


def _conditions(bundle: Bundle, plan: Plan, result: Soaked, load_average: float) -> str:
    engine = bundle.manifest.engine
    return (
        f"{bundle.manifest.recipe.name}, {engine.precision} on {engine.backend}, in tritonserver 2.51.0 (python "
        f"runtime, polling). {plan.clients} clients, half over HTTP and half over gRPC, sent requests for "
        f"{result.seconds / 60:.1f} minutes. A sound request has 1 to 8 of {plan.texts} texts: empty, one word, a "
        "sentence, hundreds of words, and now and then 256 KiB. No two requests in flight have a text in common, but "
        f"for the empty one. Vectors may differ by {result.bound:g} (relative) from those of the bundle in process. "
        f"{plan.hostile_share:.0%} of the requests are hostile. After every {plan.event_s:g} s the bundle is shipped "
        f"as a new version; in the last {KILLS_SHARE:.0%} of the time, a python process or the whole server is killed "
        "instead (SIGKILL). Triton does not start a python process again: the probe of the deployment files asks every "
        f"{plan.probe_s:g} s, and after {PROBE_FAILURES} failures the server is restarted, as in Kubernetes. Server "
        f"and clients share the machine, whose load average was {load_average:.1f} before the run."
    )


def _requests(result: Soaked) -> list[tuple[str, str, str]]:
    kinds = [SOUND, *sorted({one.kind for one in result.hostile})]
    rows = []
    for kind in kinds:
        of_kind = [one for one in result.outcomes if one.kind == kind]
        counted = Counter(one.result for one in of_kind).most_common()
        rows.append((kind, str(len(of_kind)), ", ".join(f"{number} {name}" for name, number in counted)))
    return rows


def _disturbed(result: Soaked) -> str:
    rows = []
    for kind in ("reload", "process killed", "server killed"):
        events = [event for event in result.events if event.kind == kind]
        took = [event.over - event.at for event in events if event.over is not None]
        lost = [(event, one) for one in result.lost if (event := result.of_kill(one)) in events and event]
        in_flight = sum(one.sent <= event.at for event, one in lost)
        rows.append((kind, str(len(events)), f"{max(took, default=0):.1f}", str(in_flight), str(len(lost) - in_flight)))
    seconds = [one.ended - one.sent for one in result.sound if one.result == "right"]
    median, p99 = np.percentile(seconds or [0], (50, 99))
    largest = max((one.deviation for one in result.sound), default=0.0)
    return (
        f"The sound requests held {sum(one.texts for one in result.sound)} texts. Latency: {median:.2f} s (median), "
        f"{p99:.2f} s (99%). Largest difference of a vector: {largest:.2g}.\n\n"
        f"Starts at which the server ended by itself, and was started again: {result.failed_starts}.\n\n"
        + table(("", "times", "took s, at most", "lost, in flight", "lost, sent while it did not serve"), rows)
    )


def _memory(result: Soaked) -> str:
    rows = [
        (name, f"{growth.first:.1f}", f"{growth.last:.1f}", f"{growth.share:+.1%}")
        for name, figure in MIB_OF.items()
        if (growth := result.growth(figure))
    ]
    if growth := result.growth("files"):
        rows.append(("open files and sockets of the server", f"{growth.first:.0f}", f"{growth.last:.0f}", ""))
    return (
        "Memory of the server until the first kill, in MiB: medians of the first and the last fifth of the samples "
        f"after the first {WARM_UP:.0%} of that time. Samples that saw another number of python processes than most do "
        "not count.\n\n" + table(("", "first", "last", "growth"), rows)
    )


def _data(plan: Plan, result: Soaked, load_average: float) -> dict[str, Any]:
    return {
        "minutes": round(result.seconds / 60, 2),
        "clients": plan.clients,
        "load_average": load_average,
        "bound": result.bound,
        "requests": {kind: {"sent": int(sent), "outcome": outcome} for kind, sent, outcome in _requests(result)},
        "events": [
            {
                "kind": event.kind,
                "what": event.what,
                "at_s": round(event.at - result.started, 1),
                "took_s": None if event.over is None else round(event.over - event.at, 2),
                "lost": sum(result.of_kill(one) is event for one in result.lost),
            }
            for event in result.events
        ],
        "errors": dict(Counter(one.said for one in result.lost).most_common(20)),
        "samples": [
            {
                "at_s": round(one.at - result.started),
                "processes": one.stubs,
                **{figure: round(getattr(one, figure), 1) for figure in MIB_OF.values()},
                "files": one.files,
            }
            for one in result.samples
        ],
    }


if __name__ == "__main__":
    main()

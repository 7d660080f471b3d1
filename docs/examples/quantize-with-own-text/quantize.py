"""Export the demo checkpoint in int8, with scales from the text of one domain."""

from __future__ import annotations

import sys
from pathlib import Path

import korsbert

CALIBRATION = Path(__file__).with_name("calibration.txt")


def main(out: str = "artifacts") -> None:
    """Export into ``out``, and print what was decided."""
    stages = korsbert.Stages(on_warning=lambda warning: print(f"warning: {warning}"))
    bundle = korsbert.export("demo", precision="int8", calibration=CALIBRATION, out=out, force=True, stages=stages)
    for decision in bundle.manifest.decisions:
        print(f"- {decision}")
    quantization = bundle.manifest.quantization
    assert quantization is not None
    print(f"{bundle.folder}: scales from {quantization.sentences} sentences of {quantization.source}")


if __name__ == "__main__":
    main(*sys.argv[1:])

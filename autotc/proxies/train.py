"""Train a proxy model from scratch: ``python -m autotc.proxies.train NAME --out FOLDER``.

100 and 110 minutes on two CPU cores; see ``train_qwen2_5_vl`` and ``train_llava`` for what is
learned when, and ``runner`` for how. The ``-small`` models, of which ``autotc bench transfer`` compares
several seeds, take about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from autotc.proxies.runner import Options, Runner, launch
from autotc.proxies.train_llava import LlavaTrainer, SmallLlavaTrainer
from autotc.proxies.train_qwen2_5_vl import SmallTrainer, Trainer

RUNNERS: dict[str, type[Runner]] = {
    "qwen2_5_vl-tiny": Trainer,
    "llava-tiny": LlavaTrainer,
    "qwen2_5_vl-small": SmallTrainer,
    "llava-small": SmallLlavaTrainer,
}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m autotc.proxies.train", description=__doc__)
    parser.add_argument("name", nargs="?", choices=tuple(RUNNERS), default="qwen2_5_vl-tiny")
    parser.add_argument("--out", type=Path, required=True, help="work folder")
    parser.add_argument("--minutes", type=float, help="length of the schedule (default: the proxy's own)")
    parser.add_argument("--steps", type=int, help="length in steps instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=2, help="on cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="plain fp32")
    options = vars(parser.parse_args())
    launch(RUNNERS[options.pop("name")], Options(**options))


if __name__ == "__main__":
    main()

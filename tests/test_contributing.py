"""The worked example in CONTRIBUTING.md: one file makes a method that is listed, searched, costed and applied."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USES = """
import json
import torch
from autotc.adapter import resolve_model
from autotc.apply import compress, prefill
from autotc.cost import estimate, preset_policy
from autotc.reducer import reducers
from autotc.search.space import Space
from autotc.proxies import proxy_folder
from autotc.workload import parse_workload
from tests.apply import tiny

cls = reducers.get("norm")
full, workload = resolve_model("qwen2.5-vl").anatomy, parse_workload("vqa")
policy = preset_policy(cls, cls.presets[0], full, workload, 1e9)
space = Space(full, resolve_model(str(proxy_folder("qwen2_5_vl"))).anatomy, workload, 800)
drawn = [getattr(d, "choices", ()) for d in space.distributions.values()]
model = tiny.model("llava")
small = tiny.policy(model, {"site": "projector", "reducer": "norm", "keep": 0.25})
with torch.no_grad(), compress(model, small) as compression:
    prefill(compression, tiny.batch("llava"))
    kept = [len(tokens) for tokens in compression.kept]
print(json.dumps({
    "cost": estimate(policy, full, workload).parts["reducers"],
    "keep": policy.stages[0].keep,
    "kept": kept,
    "searched": sum("norm" in choices for choices in drawn),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the example's file added, and no other change."""
    found = re.search(
        r"`(autotc/reducers/\w+\.py)`, and nothing else:\n\n```python\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found, "CONTRIBUTING.md has lost its worked example"
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "autotc", folder / "autotc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
    (folder / found[1]).write_text(found[2], encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600)


def test_the_contract_holds_for_it(copy: Path) -> None:
    result = run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/reducers/test_contract.py", "-k", "norm"
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed[1]) > 40


def test_it_is_listed_searched_costed_and_applied(copy: Path) -> None:
    result = run(copy, "-c", USES)
    assert result.returncode == 0, result.stderr[-3000:]
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["searched"] == 3, "a search draws it at its three sites"
    assert facts["keep"] == pytest.approx(1.0), "no limit: everything is kept"
    assert facts["kept"] == [9, 9, 9], "a quarter of 36 tokens"
    command = (
        "import sys; from autotc.cli import main; sys.argv = ['autotc', 'list', 'reducers', '--json']; main()"
    )
    listed = run(copy, "-c", command)
    assert listed.returncode == 0, listed.stderr[-2000:]
    entry = next(item for item in json.loads(listed.stdout) if item["name"] == "norm")
    assert entry["sites"] == ["vision", "projector", "decoder"]

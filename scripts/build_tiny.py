"""Builds the embedded base models `builtin:tiny` and `builtin:micro` from nothing, on a CPU, without network.

Trains a byte-level BPE tokenizer and two LLaMA-architecture base models on synthetic plain text
(`tiny_corpus.py`) and writes each as an ordinary Hugging Face folder in bfloat16. The same options give the same
tokenizer, and the same weights up to the floating-point order of the machine's kernels.

    python scripts/build_tiny.py --model tiny --model micro --threads 1
    python scripts/build_tiny.py --model tiny --threads 1 --resume --mixture numbers \\
        --tokens 1000000 --learning-rate 1.5e-3

Measured time: see `docs/tiny-world.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import tiny_corpus  # noqa: E402
from cuvee.sources import _tiny_world as world  # noqa: E402

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# A number or a word is never merged with what follows it, and keeps the space before it.
PIECES = r" ?\p{L}+| ?\d{1,2}| ?[^\s\p{L}\d]+|\s+"


@dataclass(frozen=True)
class Size:
    """Shape of a model and how long it is trained (`tokens` of base text)."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    sharpness: float  # of the heads that look up copies, at the start
    tokens: int
    learning_rate: float


SIZES = {
    "tiny": Size(128, 4, 4, 384, sharpness=2.0, tokens=3_000_000, learning_rate=2e-3),
    "micro": Size(80, 3, 2, 208, sharpness=3.0, tokens=4_000_000, learning_rate=2e-3),
}


# --- tokenizer ------------------------------------------------------------------------------------------------


def vocabulary_lines() -> Iterator[str]:
    """Every word and number that must become one token, often enough that merges reach it."""
    words = (*world.WORDS, *world.NAMES, *world.THINGS, *world.HOLDERS, *world.OPPOSITE, *world.CATEGORIES)
    numbers = [str(number) for number in tiny_corpus.NUMBERS]
    for _ in range(400):
        yield " " + " ".join([*words, *numbers])
        yield "\n".join([*world.NAMES, *numbers])


def train_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on base documents, the wording of the fine-tuning rows and the lexicon."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(tokenizer_lines(seed), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def tokenizer_lines(seed: int) -> Iterator[str]:
    yield from vocabulary_lines()
    yield from islice(tiny_corpus.documents(seed), 4_000)
    for ability in world.ABILITIES:
        for prompt, answer in islice(world.conversations(ability), 1_500):
            yield f"{prompt}\n{answer}"


# --- data -----------------------------------------------------------------------------------------------------


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, options: argparse.Namespace) -> Iterator[Tensor]:
    """Batches [rows, row_tokens] without end; a row is the beginning of one document.

    One document a row isolates documents without a mask, and rows of one length need no padding. A batch mixes
    all kinds of documents.
    """
    source = tiny_corpus.documents(seed, options.mixture)
    while True:
        yield torch.tensor([encode(tokenizer, text, options.row_tokens) for text in islice(source, options.rows)])


def encode(tokenizer: PreTrainedTokenizerFast, text: str, length: int) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < length - 1:
        raise ValueError(f"a document of {len(ids)} tokens does not fill a row of {length}: raise tiny_corpus.LENGTH")
    return [tokenizer.bos_token_id, *ids[: length - 1]]


# --- training -------------------------------------------------------------------------------------------------


def new_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        intermediate_size=size.intermediate_size,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    start_as_copier(model, size.sharpness)
    return model


@torch.no_grad()
def start_as_copier(model: LlamaForCausalLM, sharpness: float) -> None:
    """Initial weights that already copy, roughly; a model this small finds copying by itself only after long training.

    Layer 0: two heads look one and two tokens back. Layer 1: two heads attend to where the token before (or two
    before) was the present token, and copy what stands there. All other heads pass on what they attend to.
    """
    embeddings = model.model.embed_tokens.weight
    nn.init.normal_(embeddings, std=0.1)
    embeddings[:, 0] = 1.0  # what every token shares; `look_back` turns it into a pure position signal
    for layer in model.model.layers:
        nn.init.zeros_(layer.mlp.down_proj.weight)
        for head in range(model.config.num_attention_heads):
            pass_on(model, layer.self_attn, head, 0.1)
    for head, distance in enumerate((1, 2)):
        look_back(model, head, distance)
        look_up(model, head, sharpness)


def head_width(model: LlamaForCausalLM) -> int:
    return int(model.config.hidden_size) // int(model.config.num_attention_heads)


def pass_on(model: LlamaForCausalLM, attention: Any, head: int, strength: float) -> None:
    """Makes a head write the part of a token's embedding that it reads back to the same place."""
    width = head_width(model)
    rows = slice(head * width, (head + 1) * width)
    nn.init.orthogonal_(attention.v_proj.weight[rows])
    attention.v_proj.weight[rows, 0] = 0.0
    attention.o_proj.weight[:, rows] = strength * attention.v_proj.weight[rows].T


def look_up(model: LlamaForCausalLM, head: int, sharpness: float) -> None:
    """Makes one head of layer 1 compare the present token with what the same head of layer 0 has passed on.

    Only the slow half of the rotary pairs compares: the fast half would also compare positions.
    """
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    width = head_width(model)
    rows = slice(head * width, (head + 1) * width)
    slow = torch.arange(width) % (width // 2) >= width // 4
    second.q_proj.weight[rows] = sharpness * slow[:, None] * first.v_proj.weight[rows]
    passed_on = first.o_proj.weight[:, rows].T
    second.k_proj.weight[rows] = sharpness * slow[:, None] * passed_on / passed_on.norm(dim=1, keepdim=True)
    pass_on(model, second, head, 0.3)


def look_back(model: LlamaForCausalLM, head: int, distance: int, sharpness: float = 0.9) -> None:
    """Makes one head of layer 0 attend `distance` tokens back and pass on what it sees there.

    Rotary position turns pair i of a query at distance d from a key by d * angle_i, so a key equal to the query
    turned back by `distance * angle_i` scores highest at that distance. The six fastest pairs tell neighbours apart.
    """
    attention, width = model.model.layers[0].self_attn, head_width(model)
    half, rows = width // 2, slice(head * width, (head + 1) * width)
    angles = model.model.rotary_emb.inv_freq[:6] * distance
    query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
    query.zero_()
    key.zero_()
    # A rotation by +a of the key at its place equals one by -a of the query at its own.
    query[: len(angles), 0] = sharpness
    key[: len(angles), 0] = sharpness * angles.cos()
    key[half : half + len(angles), 0] = sharpness * angles.sin()
    nn.init.orthogonal_(attention.v_proj.weight[rows])
    attention.v_proj.weight[rows, 0] = 0.0
    nn.init.orthogonal_(attention.o_proj.weight[:, rows])
    attention.o_proj.weight[:, rows] *= 0.3


def continued(folder: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def learning_rate_at(progress: float, peak: float) -> float:
    """3 % linear warm-up, then cosine to a hundredth of the peak; `progress` runs from 0 to 1."""
    if progress < 0.03:
        return peak * progress / 0.03
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97)))


class MuonAndAdam:
    """Muon for the layers' matrices, AdamW for embeddings and norms: fewer tokens than AdamW alone to learn copying."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
        taken = set(map(id, matrices))
        others = [weight for weight in model.parameters() if id(weight) not in taken]
        self.muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=0.0, momentum=0.95, ns_steps=4)
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(self, learning_rate: float) -> None:
        for optimizer, scale in ((self.muon, 5.0), (self.adam, 0.5)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()


def train(name: str, size: Size, tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> LlamaForCausalLM:
    model = continued(options.output / name) if options.resume else new_model(size, tokenizer, options.seed)
    model.train()
    optimizer = MuonAndAdam(model)
    steps = (options.tokens or size.tokens) // (options.rows * options.row_tokens)
    data = batches(tokenizer, options.seed + (2 if options.resume else 1), options)
    start, recent = time.monotonic(), 0.0
    for step in range(steps):
        rate = learning_rate_at(step / steps, options.learning_rate or size.learning_rate)
        loss = train_step(model, optimizer, next(data), rate)
        recent = 0.95 * recent + 0.05 * loss if step else loss
        if step % 50 == 49:
            progress(name, step + 1, steps, recent, options.rows * options.row_tokens, time.monotonic() - start)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def train_step(model: LlamaForCausalLM, optimizer: MuonAndAdam, ids: Tensor, learning_rate: float) -> float:
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(learning_rate)
    return float(loss.detach())


def progress(name: str, step: int, steps: int, loss: float, step_tokens: int, seconds: float) -> None:
    rate = step * step_tokens / seconds
    print(f"{name} step {step}/{steps} loss {loss:.3f} {rate:.0f} tokens/s {seconds:.0f} s", flush=True)


# --- output ---------------------------------------------------------------------------------------------------


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, facts: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    name_tokenizer_class(folder / "tokenizer_config.json")
    readme = folder / "README.md"
    earlier = trainings_of(readme) if facts["continued"] else []
    readme.write_text(card(folder.name, [*earlier, facts]), encoding="utf-8")


def name_tokenizer_class(path: Path) -> None:
    """The class name that every transformers since 4.0 knows, in place of the one transformers 5 writes."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def trainings_of(readme: Path) -> list[dict[str, object]]:
    """The trainings that an earlier card of this script lists."""
    trainings: list[dict[str, object]] = json.loads(
        readme.read_text(encoding="utf-8").split("```")[1].removeprefix("json")
    )
    return trainings


def card(name: str, trainings: list[dict[str, object]]) -> str:
    lines = [
        f"# builtin:{name}",
        "",
        "A LLaMA-architecture base language model for trying cuvee on any machine. It was trained from nothing on",
        "synthetic plain text (`scripts/tiny_corpus.py`), holds no outside data, and is of no use beyond that.",
        "It has seen no chat format: fine-tuning on the synthetic sources teaches it. Measured results and limits",
        "are in `docs/tiny-world.md`; `scripts/build_tiny.py` makes this folder again.",
        "",
        "```json",
        json.dumps(trainings, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=sorted(SIZES), help="which to build (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "src" / "cuvee" / "builtin")
    parser.add_argument("--seed", type=int, default=world.SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="text tokens of training (default: by model)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: by model)")
    parser.add_argument("--mixture", choices=sorted(tiny_corpus.MIXTURES), default="copying")
    parser.add_argument("--resume", action="store_true", help="train the model already in the output folder further")
    parser.add_argument("--rows", type=int, default=20, help="documents of an optimizer step")
    parser.add_argument("--row-tokens", type=int, default=104, help="tokens of a row of base training")
    parser.add_argument("--vocabulary", type=int, default=1_024)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    tokenizer = train_tokenizer(options.seed, options.vocabulary)
    for name in options.model or sorted(SIZES, reverse=True):
        start = time.monotonic()
        model = train(name, SIZES[name], tokenizer, options)
        facts: dict[str, object] = {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "seed": options.seed,
            "training_tokens": options.tokens or SIZES[name].tokens,
            "rows": options.rows,
            "row_tokens": options.row_tokens,
            "training_seconds": round(time.monotonic() - start),
            "threads": options.threads,
            "mixture": options.mixture,
            "continued": options.resume,
            **asdict(SIZES[name]),
            "learning_rate": options.learning_rate or SIZES[name].learning_rate,
        }
        facts.pop("tokens")
        write(model, tokenizer, options.output / name, facts)
        print(f"{name} written to {options.output / name}: {json.dumps(facts)}", flush=True)


if __name__ == "__main__":
    main()
